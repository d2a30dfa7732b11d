import random

import numpy as np

from tunetrail.data.rows import rows_frame
from tunetrail.data.twins.near_duplicates import ComparedRows, representatives
from tunetrail.data.twins.shingles import Integers
from tunetrail.data.twins.sketching import sketch_rows
from tunetrail.data.twins.text_index import TextIndex
from tunetrail.samples import Sample, SampleKind

VOCABULARY = ["".join(random.Random(seed).choices("abcdefghij", k=6)) for seed in range(2000)]


def represented(
    texts: list[list[str]], match: list[int] | None = None, similarity: float = 0.8
) -> list[int]:
    """Return who stands for each row of one text, in the order of age."""
    rows = rows_frame(
        (row_id, Sample(kind=SampleKind.EMBEDDING, shape="text", content={"text": " ".join(text)}))
        for row_id, text in enumerate(texts)
    )
    sketches = sketch_rows(rows)
    index = TextIndex(dict(sketches.arrays()))
    whole: Integers = index.number_of[sketches.whole_text]
    keys = np.array(match or [0] * len(texts), dtype=np.uint64)
    compared = ComparedRows(match_key=keys, texts=whole[:, None], whole=whole)
    return [int(older) for older in representatives(compared, index, similarity)]


def edited(text: list[str], *positions: int) -> list[str]:
    return [
        f"new{position}" if position in positions else word for position, word in enumerate(text)
    ]


def sentence(seed: int, count: int) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=count)


def test_representatives_are_the_oldest_and_stay_themselves() -> None:
    base = sentence(1, 100)
    chain = [
        base,
        edited(base, 20, 40),
        edited(base, 20, 40, 60, 80),
        edited(base, 20, 40, 60, 80, 90, 95),
    ]

    # the second is near the first, the third near the second only, the fourth near the third only
    assert represented(chain, similarity=0.85) == [0, 0, 2, 2]
    assert represented(chain[::-1], similarity=0.85) == [0, 0, 2, 2]


def test_representatives_have_an_equal_match_key() -> None:
    base = sentence(2, 60)
    assert represented([base, edited(base, 59), edited(base, 0)], [1, 2, 1]) == [0, 1, 0]


def test_representatives_of_thousands_of_near_copies_take_seconds() -> None:
    base = sentence(3, 80)
    generator = random.Random(4)
    copies = [
        [*edited(base, generator.randrange(80))[:-1], VOCABULARY[index]] for index in range(2000)
    ]

    assert set(represented(copies, similarity=0.6)) == {0}


def test_representatives_are_those_of_the_greedy_rule() -> None:
    generator = random.Random(5)
    texts = []
    for family in range(30):
        text = sentence(100 + family, 90)
        for _ in range(6):
            texts.append(text)
            text = edited(text, *generator.sample(range(90), 2))
    generator.shuffle(texts)
    shingles = [
        {tuple(text[start : start + 3]) for start in range(len(text) - 2)} for text in texts
    ]
    expected: list[int] = []
    for newer, newer_shingles in enumerate(shingles):
        older = (
            o
            for o in range(newer)
            if expected[o] == o
            and len(newer_shingles & shingles[o]) / len(newer_shingles | shingles[o]) >= 0.7
        )
        expected.append(next(older, newer))

    oldest = represented(texts, similarity=0.7)

    assert [older == newer for newer, older in enumerate(oldest)] == [
        o == n for n, o in enumerate(expected)
    ]
    assert all(oldest[older] == older <= newer for newer, older in enumerate(oldest))
