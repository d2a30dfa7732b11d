import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.data.twins.shingles import (
    LARGEST_SAMPLE,
    PERMUTATIONS,
    WHOLE,
    begins_run,
    character_shingles,
    combined,
    in_shared_run,
    normalized,
    one_word_masks,
    ragged,
    signatures,
    smallest,
    spans,
    text_hash,
    word_hashes,
    word_shingles,
)

TEXTS = st.text(max_size=40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello,\n WORLD! ", "hello world"),
        ("don't", "dont"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("...", "..."),
        ("{}", "{}"),
        ("", ""),
        ("a\0b \ud800", "a\0b \ud800"),
        ("क्षि", "क्षि"),
        ("日本語、です", "日本語です"),
    ],
)
def test_normalized_folds_case_space_and_punctuation(text: str, expected: str) -> None:
    assert normalized(text) == expected


@pytest.mark.processes
def test_hashes_are_the_same_in_every_process() -> None:
    code = (
        "from tunetrail.data.twins.shingles import *; "
        "print(text_hash('a'), word_shingles(word_hashes(['a b c'])).values)"
    )
    environments = ({**os.environ, "PYTHONHASHSEED": seed} for seed in "12")
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout
        for environment in environments
    }

    assert printed == {f"{text_hash('a')} {word_shingles(word_hashes(['a b c'])).values}\n"}
    assert text_hash("\ud800") != text_hash("")


def test_combined_depends_on_the_order_of_the_columns() -> None:
    hashes = combined(np.array([[1, 2], [2, 1], [1, 2]], dtype=np.uint64))
    assert hashes[0] == hashes[2] != hashes[1]


def test_runs_of_sorted_values() -> None:
    values = np.array([1, 1, 2, 3, 3])

    assert begins_run(values).tolist() == [True, False, True, True, False]
    assert in_shared_run(values).tolist() == [True, True, False, True, True]
    assert in_shared_run(values[:0]).tolist() == [] and in_shared_run(values[:1]).tolist() == [
        False
    ]


def test_spans_lists_each_range() -> None:
    assert spans(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert spans(np.array([], dtype=np.int64), np.array([], dtype=np.int64)).tolist() == []


def test_ragged_of_takes_the_runs_of_some_texts() -> None:
    chosen = ragged(np.arange(6), np.array([1, 2, 3])).of(np.array([2, 0]))
    assert chosen.values.tolist() == [3, 4, 5, 0] and chosen.counts.tolist() == [3, 1]


@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_shingles_are_those_of_each_text_alone(texts: list[str]) -> None:
    together = character_shingles(texts)
    words, runs = word_hashes(texts), word_shingles(word_hashes(texts))
    for index, text in enumerate(texts):
        only = np.array([index])
        assert together.of(only).values.tolist() == character_shingles([text]).values.tolist()
        distinct = {text[start : start + 5] for start in range(max(1, len(text) - 4))}
        assert len(set(together.of(only).values.tolist())) == len(distinct)
        assert words.of(only).values.tolist() == [text_hash(word) for word in text.split(" ")]
        assert runs.counts[index] == max(0, len(text.split(" ")) - 2)


def test_character_shingles_know_short_texts_apart() -> None:
    assert (
        len(set(character_shingles(["", "a", "b", "aa", "a\0", "a\0\0\0\0"]).values.tolist())) == 6
    )


@pytest.mark.parametrize("index", [0.0, 0.5, 0.8, 1.0])
def test_signatures_estimate_the_jaccard_index(index: float) -> None:
    shared, size = round(2 * 90 * index / (1 + index)), 90
    hashes = np.random.default_rng(1).integers(0, 2**63, (400, 2 * size - shared), dtype=np.uint64)
    sides = [hashes[:, :size], hashes[:, size - shared :]]

    one, second = (signatures(ragged(side.ravel(), np.full(400, size))) for side in sides)

    assert one.shape == (400, PERMUTATIONS)
    assert np.mean(one == second) == pytest.approx(shared / (2 * size - shared), abs=0.01)
    assert np.mean(one == second, axis=1).std() < 0.05


def test_signatures_of_no_text() -> None:
    empty = np.empty(0, dtype=np.uint64)
    assert signatures(ragged(empty, np.empty(0, dtype=np.int64))).shape == (0, PERMUTATIONS)


def test_smallest_keeps_distinct_hashes_sorted_and_not_more_than_the_sample() -> None:
    values = np.random.default_rng(2).integers(0, 2**63, 3 * LARGEST_SAMPLE, dtype=np.uint64)
    sample = smallest(
        ragged(
            np.concatenate((values, [7, 7, 2**33])).astype(np.uint64), np.array([len(values), 0, 3])
        )
    )

    assert sample.counts.tolist() == [LARGEST_SAMPLE, 0, 2]
    assert (
        sample.values[:LARGEST_SAMPLE].tolist()
        == sorted((values >> np.uint64(32)).tolist())[:LARGEST_SAMPLE]
    )
    assert sample.values[LARGEST_SAMPLE:].tolist() == [0, 2]


def differ_by_one_word(one: list[str], second: list[str]) -> bool:
    if len(one) < len(second):
        one, second = second, one
    if len(one) == len(second):
        return sum(a != b for a, b in zip(one, second, strict=True)) <= 1
    return len(one) == len(second) + 1 and any(
        one[:i] + one[i + 1 :] == second for i in range(len(one))
    )


def share_a_mask(texts: list[str]) -> bool:
    key, text, position = one_word_masks(word_hashes(texts), 4)
    masks = [
        {
            (k, p)
            for k, t, p in zip(key.tolist(), text.tolist(), position.tolist(), strict=True)
            if t == text_index
        }
        for text_index in (0, 1)
    ]
    whole = [{k for k, p in mask if p == WHOLE} for mask in masks]
    without = [{k for k, p in mask if p != WHOLE} for mask in masks]
    return bool((masks[0] & masks[1]) or (whole[0] & without[1]) or (whole[1] & without[0]))


WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=7)


@given(WORDS, WORDS)
def test_one_word_masks_are_shared_if_one_word_differs_and_else_not(
    one: list[str], second: list[str]
) -> None:
    is_long_enough = max(len(one), len(second)) >= (3 if one == second else 4)
    assert share_a_mask([" ".join(one), " ".join(second)]) == (
        is_long_enough and differ_by_one_word(one, second)
    )


@given(WORDS, st.integers(0, 6), st.sampled_from(["substitute", "insert", "delete"]))
def test_one_word_masks_find_every_change_of_one_word(
    words: list[str], position: int, change: str
) -> None:
    words = [*"abcd", *words]
    changed = {
        "substitute": [*words[:position], "new", *words[position + 1 :]],
        "insert": [*words[:position], "new", *words[position:]],
        "delete": words[:position] + words[position + 1 :],
    }[change]

    assert share_a_mask([" ".join(words), " ".join(changed)])


def test_one_word_masks_end_at_64_words() -> None:
    texts = [" ".join(random.Random(size).choices("abcdef", k=size)) for size in (2, 3, 4, 64, 65)]

    assert np.bincount(one_word_masks(word_hashes(texts), 4)[1], minlength=5).tolist() == [
        0,
        1,
        5,
        65,
        0,
    ]
