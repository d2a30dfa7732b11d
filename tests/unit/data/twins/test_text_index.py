import random

import numpy as np
import pytest

from tunetrail.data.rows import rows_frame
from tunetrail.data.twins import text_index
from tunetrail.data.twins.near_pairs import components
from tunetrail.data.twins.sketching import sketch_rows
from tunetrail.data.twins.text_index import TextIndex
from tunetrail.samples import Sample, SampleKind


def index_of(*texts: str) -> tuple[TextIndex, list[int]]:
    """Return an index, and the number of each text in it."""
    rows = rows_frame(
        (row_id, Sample(kind=SampleKind.EMBEDDING, shape="text", content={"text": text}))
        for row_id, text in enumerate(texts)
    )
    sketches = sketch_rows(rows)
    index = TextIndex(dict(sketches.arrays()))
    return index, index.number_of[sketches.whole_text].tolist()


def words(seed: int, count: int) -> str:
    return " ".join(
        "".join(random.Random(f"{seed} {n}").choices("abcdefgh", k=6)) for n in range(count)
    )


def test_numbers_do_not_depend_on_the_order_of_texts() -> None:
    texts = ["one", "two", "three", "one"]
    _, text_numbers = index_of(*texts)
    _, backwards = index_of(*reversed(texts))
    assert text_numbers == backwards[::-1] and sorted(set(text_numbers)) == [0, 1, 2]


@pytest.mark.parametrize("count", [10, 24, 60])
def test_are_similar_takes_the_kind_that_both_have(count: int) -> None:
    index, (one, near, far) = index_of(words(1, count), words(1, count) + " x", words(2, count))

    index.allow_comparisons(3)
    pairs = np.array([[one, near], [one, far], [one, one], [-1, -1], [one, -1]])
    assert index.are_similar(pairs[:, 0], pairs[:, 1], 0.8).tolist() == [
        True,
        False,
        True,
        True,
        False,
    ]


def test_are_similar_knows_a_text_of_few_words_from_one_of_many() -> None:
    index, (short, long) = index_of(words(1, 5), words(1, 90))
    assert index.are_similar(np.array([short]), np.array([long]), 0.5).tolist() == [False]


@pytest.mark.parametrize("at_once", [1 << 22, 7])
def test_one_word_pairs_connect_wanted_texts_in_any_number_of_parts(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_index, "_MASKS_AT_ONCE", at_once)
    base = ["a", "b", "c", "d", "e", "f", "g", "h"]
    texts = [
        base,
        [*base, "i"],
        ["x", *base[1:]],
        base[1:],
        [*base[::-1]],
        ["k", *base[:3], *base[4:]],
    ]
    index, text_numbers = index_of(*(" ".join(text) for text in texts))
    allowed = np.ones(index.size, dtype=bool)
    pairs = np.concatenate([np.column_stack(pair) for pair in index.one_word_pairs(allowed)])

    # the base, one word more, another word, one word less; backwards, and a word moved, are two
    # changes away
    groups = components(pairs[:, 0], pairs[:, 1], index.size)[text_numbers]

    assert len(set(groups[:4])) == 1 and len(set(groups)) == 3

    allowed[text_numbers[0]] = False
    assert all(
        text_numbers[0] not in np.concatenate(pair) for pair in index.one_word_pairs(allowed)
    )
