import pytest

from tunetrail.errors import did_you_mean
from tunetrail.nearest_words import is_single_typo, nearest_words


@pytest.mark.parametrize(
    ("word", "known", "nearest"),
    [
        ("AdamW", ["adam", "adamw"], ["adamw"]),
        ("adamv", ["adam_w", "adamw", "adafactor"], ["adamw"]),
        ("seeed", ["need", "seed"], ["seed"]),
        ("colour", ["color", "cooler"], ["color"]),
        ("zzz", ["seed"], []),
        ("", ["seed"], []),
        ("seed", [], []),
    ],
)
def test_nearest_words(word: str, known: list[str], nearest: list[str]) -> None:
    assert nearest_words(word, known) == nearest


def test_nearest_words_returns_several_with_the_single_typos_first() -> None:
    known = ["model_type", "models", "modle", "other"]
    assert nearest_words("model", known, most=2) == ["models", "modle"]


def test_synonyms_come_before_what_looks_alike() -> None:
    synonyms = {"bf16": "bf16-mixed", "gone": "absent"}
    known = ["bf16-true", "bf16-mixed"]

    assert nearest_words("BF16", known, synonyms=synonyms) == ["bf16-mixed"]
    assert nearest_words("gone", known, synonyms=synonyms) == []
    assert did_you_mean("bf16", known, synonyms) == " Did you mean 'bf16-mixed'?"


@pytest.mark.parametrize(
    "word", ["eed", "sed", "see", "xeed", "seex", "sexd", "esed", "sede", "sseed"]
)
def test_single_typos(word: str) -> None:
    assert is_single_typo(word, "seed") and is_single_typo("seed", word)


@pytest.mark.parametrize("word", ["seed", "deed_", "ed", "seedxx", "esde", "dees", "tree"])
def test_words_that_are_no_single_typos(word: str) -> None:
    assert not is_single_typo(word, "seed")


def test_words_of_two_letters_are_never_typos() -> None:
    assert not is_single_typo("lr", "lw")
