from collections.abc import Sequence
from itertools import chain

import numpy as np
import pytest

from tunetrail.data.twins.boilerplate import TextWords
from tunetrail.data.twins.differences import say_something_else
from tunetrail.data.twins.shingles import word_hashes

Row = tuple[str | None, ...]
TEXT = "one two three four five six seven eight nine ten"


def verdicts(pairs: Sequence[tuple[Row, Row]]) -> list[bool]:
    """Return whether the newer row of each pair (older, newer) says something else."""
    texts: dict[str, int] = {}
    indices = []
    for row in chain.from_iterable(pairs):
        for text in row:
            indices.append(-1 if text is None else texts.setdefault(text, len(texts)))
    words = word_hashes(list(texts))
    values = (words.values >> np.uint64(32)).astype(np.uint32)
    text_words = TextWords(values=values, starts=words.starts[:-1], counts=words.counts)
    older, newer = np.array(indices).reshape(len(pairs), 2, -1).transpose(1, 0, 2)
    return [bool(verdict) for verdict in say_something_else(text_words, older, newer)]


@pytest.mark.parametrize(
    ("newer", "is_other"),
    [
        (TEXT, False),
        (TEXT.replace("five", "new"), False),
        (TEXT.replace("five six", "some news"), False),
        (TEXT.replace("five six seven", "these are news"), True),
        (TEXT.replace("five six seven", "some more or other news"), True),
        (TEXT.replace("one two three", "these are news"), True),
        (TEXT.replace("eight nine ten", "these are news"), True),
        (TEXT.replace("five six seven", "six seven five"), False),
        (TEXT.replace("two", "new").replace("nine", "newer"), False),
        (TEXT.replace("five six seven ", ""), False),
        (f"{TEXT} and so on and on", False),
        (f"well then {TEXT}", False),
    ],
)
def test_three_words_in_one_place_are_another_content(newer: str, is_other: bool) -> None:
    assert verdicts([((TEXT,), (newer,))]) == [is_other]
    assert verdicts([((newer,), (TEXT,))]) == [is_other]


@pytest.mark.parametrize(
    ("newer", "are_listed"),
    [
        ([TEXT.replace("five", name) for name in ("anna", "ben")], [True, True]),
        ([TEXT.replace("five", "anna"), TEXT.replace("six", "ben")], [False, False]),
        ([TEXT.replace("five", name) for name in ("anna", "ben marie")], [False, False]),
        ([TEXT.replace("five", name) for name in ("anna lee", "ben marie")], [True, True]),
        ([f"{TEXT} {name}" for name in ("anna", "ben")], [False, False]),
    ],
    ids=["names", "two places", "one and two words", "two words each", "words added"],
)
def test_other_words_in_the_same_place_are_a_list(newer: list[str], are_listed: list[bool]) -> None:
    assert verdicts([((TEXT,), (text,)) for text in newer]) == are_listed


def test_a_place_is_that_of_one_older_row() -> None:
    second = TEXT.replace("one", "other")
    pairs = [((text,), (text.replace("five", "new"),)) for text in (TEXT, second)]

    assert verdicts(pairs) == [False, False]


@pytest.mark.parametrize(
    ("newer", "is_other"),
    [
        ((TEXT.replace("five", "new"), "yes it is so", None), False),
        ((TEXT, "yes it was so", None), False),
        ((TEXT.replace("five", "new"), "yes it was so", None), True),
        ((TEXT.replace("five", "new"), "yes it is really so", None), False),
        ((TEXT.replace("five", "new"), "yes it is so", "another text of three"), False),
    ],
    ids=["question", "answer", "both", "answer with a word added", "absent in the older row"],
)
def test_words_replaced_in_two_texts_are_another_content(newer: Row, is_other: bool) -> None:
    assert verdicts([((TEXT, "yes it is so", None), newer)]) == [is_other]


def test_verdicts_depend_neither_on_the_order_of_pairs_nor_on_blocks() -> None:
    generator = np.random.default_rng(1)
    pairs, expected = [], []
    # More pairs than are compared at once.
    for index in range(5000):
        older = f"{TEXT} {index}"
        replaced = int(generator.integers(0, 6))
        changed = " ".join(f"new{position}" for position in range(replaced))
        pairs.append(((older,), (" ".join([changed, *older.split()[replaced:]]).strip(),)))
        expected.append(replaced >= 3)
    order = generator.permutation(len(pairs)).tolist()

    assert verdicts(pairs) == expected
    assert verdicts([pairs[index] for index in order]) == [expected[index] for index in order]
