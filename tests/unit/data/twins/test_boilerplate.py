import random
from collections.abc import Sequence

import numpy as np
import pytest

from tunetrail.data.twins import boilerplate as boilerplate_module
from tunetrail.data.twins.boilerplate import Boilerplate, TextWords, find_boilerplate
from tunetrail.data.twins.shingles import Hashes, spaced, text_hash, word_hashes

INSTRUCTION = [f"said{index}" for index in range(40)]


def own_words(seed: int, count: int) -> list[str]:
    """Return words that no other seed has."""
    return [f"own{seed}x{index}" for index in range(count)]


def boilerplate_of(texts: Sequence[str]) -> Boilerplate | None:
    words = word_hashes(list(map(spaced, texts)))
    values = (words.values >> np.uint64(32)).astype(np.uint32)
    text_words = TextWords(values=values, starts=words.starts[:-1], counts=words.counts)
    every_text = np.arange(len(texts))
    return find_boilerplate(keys_of(texts), text_words, every_text, every_text)


def keys_of(texts: Sequence[str]) -> Hashes:
    return np.array(list(map(text_hash, texts)), dtype=np.uint64)


def stripped_texts(texts: Sequence[str]) -> dict[str, tuple[str, int, bool]]:
    """Return what is left of each text with boilerplate."""
    left = {}
    boilerplate = boilerplate_of(texts)
    for text in texts:
        own = None if boilerplate is None else boilerplate.own_text(text, text_hash(text))
        if own is not None:
            left[text] = tuple(own)
    return left


def with_instruction(count: int, words: int, own: int = 5) -> list[str]:
    """Return texts of an instruction's first words and words of their own."""
    return [" ".join(INSTRUCTION[:words] + own_words(seed, own)) for seed in range(count)]


@pytest.mark.parametrize(
    ("texts", "has_boilerplate"),
    [
        (with_instruction(10, 9), True),
        (with_instruction(9, 9), False),
        (with_instruction(10, 8), False),
        (with_instruction(10, 9, own=9), True),
        (with_instruction(10, 9, own=10), False),
    ],
    ids=["ten texts", "nine texts", "eight words", "half of the words", "less than half"],
)
def test_boilerplate_is_nine_words_and_half_of_the_words_of_ten_texts(
    texts: list[str], has_boilerplate: bool
) -> None:
    assert len(stripped_texts(texts)) == has_boilerplate * len(texts)


@pytest.mark.parametrize(("carriers", "has_boilerplate"), [(20, True), (19, False)])
def test_boilerplate_is_in_one_percent_of_the_texts(carriers: int, has_boilerplate: bool) -> None:
    plain = [" ".join(own_words(seed, 12)) for seed in range(100, 2100 - carriers)]
    texts = with_instruction(carriers, 30) + plain

    assert len(stripped_texts(texts)) == has_boilerplate * carriers


@pytest.mark.parametrize(
    "template",
    [
        [*INSTRUCTION[:20], "{}"],
        ["{}", *INSTRUCTION[:20]],
        [*INSTRUCTION[:20], "{}", *INSTRUCTION[20:]],
        [*INSTRUCTION[:12], "{}", *INSTRUCTION[12:24], "{}", *INSTRUCTION[24:]],
    ],
    ids=["before", "after", "around", "two gaps"],
)
def test_own_words_stand_in_the_gaps_of_the_boilerplate(template: list[str]) -> None:
    pattern, owns = " ".join(template), []
    for seed in range(12):
        owns.append([" ".join(own_words(100 * seed + gap, 4)) for gap in range(2)])
    texts = [pattern.format(*own) for own in owns]

    left = stripped_texts(texts)

    gaps = pattern.count("{}")
    assert [left[text][0] for text in texts] == [" ".join(own[:gaps]) for own in owns]
    assert len({left[text][1] for text in texts}) == 1


def test_rows_with_other_boilerplate_have_another_form() -> None:
    second = [" ".join(INSTRUCTION[20:] + own_words(seed, 5)) for seed in range(50, 62)]
    texts = with_instruction(12, 20) + second

    left = stripped_texts(texts)

    assert len({left[text][1] for text in texts[:12]}) == 1
    assert len({left[text][1] for text in texts}) == 2


def test_copies_that_were_edited_in_different_places_have_no_gap() -> None:
    texts = []
    for position in range(2, 38):
        texts.append(" ".join([*INSTRUCTION[:position], f"new{position}", *INSTRUCTION[position:]]))

    assert stripped_texts(texts) == {}


@pytest.mark.parametrize(("own", "is_mixed"), [(6, False), (7, True)])
def test_a_text_of_which_a_quarter_is_its_own_is_compared_as_a_whole_too(
    own: int, is_mixed: bool
) -> None:
    left = stripped_texts(with_instruction(12, 19, own))

    assert {mixed for _, _, mixed in left.values()} == {is_mixed}


def several_kinds() -> list[str]:
    generator = random.Random(1)
    texts = with_instruction(30, 25)
    texts += [" ".join(own_words(seed, 6) + INSTRUCTION[10:]) for seed in range(30, 60)]
    texts += [" ".join(own_words(seed, generator.randint(3, 30))) for seed in range(60, 160)]
    return texts


@pytest.mark.parametrize("seed", [1, 2])
def test_boilerplate_depends_on_no_order(seed: int) -> None:
    texts = several_kinds()
    shuffled = random.Random(seed).sample(texts, len(texts))

    assert stripped_texts(texts) == stripped_texts(shuffled) != {}


@pytest.mark.parametrize("words_at_once", [1, 70, 1000])
def test_boilerplate_depends_on_no_blocks(
    words_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = several_kinds()
    expected = stripped_texts(texts)

    monkeypatch.setattr(boilerplate_module, "_WORDS_AT_ONCE", words_at_once)

    assert stripped_texts(texts) == expected


@pytest.mark.parametrize("carriers", [0, 600, 30_000])
def test_boilerplate_of_many_texts_is_learnt_from_a_sample_that_depends_on_no_order(
    carriers: int,
) -> None:
    generator = np.random.default_rng(carriers)
    values = generator.integers(0, 2**32, (30_000, 16), dtype=np.uint32)
    values[:carriers, :12] = values[0, :12]
    keys = generator.permutation(np.arange(1, 30_001, dtype=np.uint64) << np.uint64(40))
    every_text, counts = np.arange(30_000), np.full(30_000, 16)

    for order in (every_text, generator.permutation(every_text)):
        words = TextWords(values=values[order].ravel(), starts=16 * every_text, counts=counts)
        boilerplate = find_boilerplate(keys[order], words, every_text, every_text)

        is_carrier = [boilerplate is not None and key in boilerplate for key in keys.tolist()]
        assert is_carrier == [True] * carriers + [False] * (30_000 - carriers)
