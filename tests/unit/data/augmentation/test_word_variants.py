from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.data.augmentation.lexicon import Lexicon
from tunetrail.data.augmentation.word_variants import (
    with_synonyms,
    with_typos,
    with_words_dropped,
    with_words_swapped,
)

LEXICON = Lexicon(source="test", synonyms={"dwelling": ("abode",), "glad": ("joyful", "happy")})
Variation = Callable[[str, float, np.random.Generator], str | None]


def synonyms(text: str, rate: float, generator: np.random.Generator) -> str | None:
    return with_synonyms(text, rate, generator, LEXICON)


VARIATIONS = [with_words_dropped, with_words_swapped, with_typos, synonyms]
ENGLISH = [
    "a",
    "the",
    "glad",
    "dwelling,",
    "stood",
    "(quite)",
    "alone",
    "\n",
    "on",
    "some_hill",
    "x1",
    "Glad",
]
TEXTS = st.one_of(
    st.text(), st.text("ab \n.GLAD"), st.lists(st.sampled_from(ENGLISH), max_size=12).map(" ".join)
)  # fmt: skip


def varied(variation: Variation, text: str, rate: float = 0.3, seed: int = 0) -> str | None:
    return variation(text, rate, np.random.default_rng(seed))


@pytest.mark.parametrize("variation", VARIATIONS)
@given(text=TEXTS, rate=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_variation_changes_the_text_or_says_that_it_cannot(
    variation: Variation, text: str, rate: float, seed: int
) -> None:
    variant = varied(variation, text, rate, seed)
    assert variant is None or (variant != text and variant.strip())
    assert variant == varied(variation, text, rate, seed)


@given(text=TEXTS, seed=st.integers(0, 1000))
def test_dropped_words_leave_the_others_in_order(text: str, seed: int) -> None:
    variant = varied(with_words_dropped, text, seed=seed)
    words = text.split()
    if variant is None:
        assert len(words) < 2
    else:
        remaining_words = iter(words)
        assert all(word in remaining_words for word in variant.split())
        assert 0 < len(variant.split()) < len(words)


@given(text=TEXTS, seed=st.integers(0, 1000), rate=st.floats(0.01, 0.99))
def test_swapped_words_stay_on_their_line_one_place_away(text: str, seed: int, rate: float) -> None:
    variant = varied(with_words_swapped, text, rate, seed)
    if variant is not None:
        for before, after in zip(text.split("\n"), variant.split("\n"), strict=True):
            assert Counter(before.split()) == Counter(after.split())
            words = before.split()
            for position, word in enumerate(after.split()):
                assert word in words[max(0, position - 1) : position + 2]


@given(text=TEXTS, seed=st.integers(0, 1000))
def test_typos_change_one_letter_and_never_the_first(text: str, seed: int) -> None:
    variant = varied(with_typos, text, seed=seed)
    if variant is not None:
        before, after = text.split(), variant.split()
        assert len(before) == len(after)
        for old, new in zip(before, after, strict=True):
            if old != new:
                core = old.strip("\"'(.,;:!?)")
                assert len(core) >= 4 and core.isalpha()
                assert (
                    abs(len(old) - len(new)) <= 1
                    and old[: old.index(core) + 1] == new[: old.index(core) + 1]
                )


def test_typos_are_of_four_kinds() -> None:
    variants = {varied(with_typos, "keyboard", seed=seed) for seed in range(1000)}

    assert {"keybord", "keybooard", "keybaord", "keyboars"} <= variants

    typed_next_to_the_d = {
        word for word in variants if word and word.startswith("keyboar") and len(word) == 8
    }
    assert {word[7:] for word in typed_next_to_the_d} == set("sfercx")


def test_typos_leave_code_alone() -> None:
    assert (
        varied(with_typos, "os.path.join(a_name, x1) -> self.value[0] 12345 foo() != none_of_it")
        is None
    )


def test_typos_keep_capitals() -> None:
    variants = [varied(with_typos, "KEYBOARD", seed=seed) for seed in range(50)]
    assert all(word is not None and word.isupper() for word in variants)


def test_rate_is_the_share_of_the_words_that_change() -> None:
    text = " ".join(["keyboard"] * 2000)
    variant = varied(with_typos, text, rate=0.25)
    assert variant is not None
    changed = sum(word != "keyboard" for word in variant.split())
    assert changed == pytest.approx(500, abs=80)


def test_synonyms_keep_capitals_signs_and_white_space() -> None:
    text = 'The dwelling,\n\t"Dwelling" (DWELLING)!  dwelling_place dwelling.size'

    assert varied(synonyms, text, rate=0.999) == (
        'The abode,\n\t"Abode" (ABODE)!  dwelling_place dwelling.size'
    )
    assert varied(synonyms, "nothing to replace") is None
    assert {varied(synonyms, "glad", seed=seed) for seed in range(20)} == {"joyful", "happy"}


@pytest.mark.parametrize("variation", VARIATIONS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00",
        "\ud800",
        "word " * 100_000,
        "x" * 1_000_000,
        " " * 1_000_000,
        "(" * 500_000 + "a" * 500_000,
    ],
)
def test_variation_takes_linear_time_on_any_text(variation: Variation, text: str) -> None:
    varied(variation, text)
