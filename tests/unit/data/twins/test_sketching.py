import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunetrail.data.rows import rows_frame
from tunetrail.data.twins.shingles import normalized, text_hash
from tunetrail.data.twins.sketches import RowSketches
from tunetrail.data.twins.sketching import sketch_rows
from tunetrail.samples import Sample, SampleKind


def frame(shape: str, *contents: dict[str, Any], group: str | None = None) -> pd.DataFrame:
    samples = [
        Sample(kind=SampleKind.EMBEDDING, shape=shape, content=content, group=group)
        for content in contents
    ]
    return rows_frame(enumerate(samples))


def texts(*values: str) -> pd.DataFrame:
    return frame("text", *({"text": value} for value in values))


def score(first: str, second: str, value: float) -> dict[str, Any]:
    return {"sentence1": first, "sentence2": second, "score": value}


def chat(*contents: str, system: str = "be kind") -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    turns = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]
    return {"messages": [{"role": "system", "content": system}, *turns]}


def test_sketch_rows_name_a_row_by_its_group_or_else_its_first_text() -> None:
    rows = [
        frame("pair", {"anchor": "A, b!", "positive": "c"}, group=group) for group in (None, "g")
    ]

    expected = [hashlib.sha256(b"text:a b").digest(), hashlib.sha256(b"group:g").digest()]
    assert [sketch_rows(row).own_key[0].tobytes() for row in rows] == expected
    assert [sketch_rows(row).group_key[0] for row in rows] == [0, text_hash("g")]


def test_sketch_rows_keep_one_text_of_equal_ones() -> None:
    sketches = sketch_rows(texts("One two.", "one  TWO", "three"))
    assert sketches.text_key.tolist() == [text_hash("one two"), text_hash("three")]
    assert sketches.link_text.tolist() == sketches.whole_text.tolist() == [0, 0, 1]
    assert sketches.row_text.tolist() == [[0, -1, -1], [0, -1, -1], [1, -1, -1]]
    assert len({tuple(key) for key in sketches.row_key.tolist()}) == 3


def test_sketch_rows_sketch_a_text_by_its_length() -> None:
    rows = texts(
        *(
            " ".join(random.Random(count).choices("abcdefg", k=count))
            for count in (1, 15, 16, 32, 33)
        )
    )

    sketches = sketch_rows(rows)

    assert sketches.short.text.tolist() == [0, 1, 2, 3] and sketches.long.text.tolist() == [2, 3, 4]
    assert sketches.long.counts.sum() == len(sketches.long.shingles)
    assert np.bincount(sketches.mask_text, minlength=5).tolist() == [0, 16, 17, 33, 34]


@pytest.mark.parametrize(
    ("rows", "contradict", "match"),
    [
        (
            frame("label", {"text": "A b", "label": "x"}, {"text": "a b!", "label": "y"}),
            True,
            False,
        ),
        (
            frame("label", {"text": "A b", "label": "x"}, {"text": "a b!", "label": "x"}),
            False,
            True,
        ),
        (frame("score", score("a", "b", 1.0), score("b", "a", 0.0)), True, False),
        (
            frame("completion", {"input": "a", "output": "Yes."}, {"input": "a", "output": "yes"}),
            False,
            True,
        ),
        (
            frame("completion", {"input": "a", "output": "yes"}, {"input": "a", "output": "no"}),
            True,
            True,
        ),
        (
            frame("vector", {"text": "a", "embedding": [1.0]}, {"text": "a", "embedding": [2.0]}),
            True,
            False,
        ),
        (frame("chat", chat("a", "b", "c", "d"), chat("a", "b", "c", "e")), True, True),
        (frame("chat", chat("a", "b"), chat("a", "c", system="be rude")), False, False),
        (
            frame("pair", {"anchor": "a", "positive": "b"}, {"anchor": "a", "positive": "c"}),
            False,
            True,
        ),
    ],
)
def test_sketch_rows_know_what_is_asked_answered_and_fixed(
    rows: pd.DataFrame, contradict: bool, match: bool
) -> None:
    sketches = sketch_rows(rows)
    asked, answered = sketches.input_key, sketches.target_key
    assert (bool(asked[0]) and asked[0] == asked[1] and answered[0] != answered[1]) == contradict
    assert (sketches.match_key[0] == sketches.match_key[1]) == match


def test_row_sketches_survive_the_file(tmp_path: Path) -> None:
    sketches = sketch_rows(texts("a", "b " * 40))

    sketches.save(tmp_path / "sketches.npz")
    again = dict(RowSketches.load(tmp_path / "sketches.npz").arrays())
    for name, values in sketches.arrays():
        assert values.dtype == again[name].dtype and np.array_equal(values, again[name]), name
    assert len(sketches) == 2 and "object" not in {str(values.dtype) for values in again.values()}


def test_sketch_rows_survive_hostile_texts() -> None:
    hostile = [
        "",
        " ",
        "\0",
        "\ud800 \udfff",
        "...",
        "x" * 200_000,
        "y " * 100_000,
        "\u0301" * 50,
        "\U0010ffff" * 5,
    ]

    sketches = sketch_rows(texts(*hostile))

    assert len(sketches) == len(hostile)
    assert len(set(sketches.text_key.tolist())) == len({normalized(text) for text in hostile})
    assert len(sketch_rows(texts())) == 0


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(alphabet="ab .", max_size=60), min_size=1, max_size=8), st.integers(1, 7))
def test_sketch_rows_say_of_a_row_what_they_say_of_it_alone(values: list[str], cut: int) -> None:
    whole = sketch_rows(texts(*values))
    for index in range(len(values)):
        alone = sketch_rows(texts(*values).iloc[index : index + 1])
        assert np.array_equal(alone.row_key[0], whole.row_key[index])
        assert alone.own_key.tobytes() == whole.own_key[index].tobytes()
        text = whole.whole_text[index]
        assert whole.text_key[text] == alone.text_key[0]
        of_text = np.flatnonzero(whole.short.text == text)
        assert np.array_equal(whole.short.signature[of_text], alone.short.signature)
        assert set(whole.mask_key[whole.mask_text == text].tolist()) == set(alone.mask_key.tolist())
