import math
from typing import Any

import numpy as np
import pytest

from tunetrail.data.twins.row_parts import TEXTS_PER_ROW, hash_of, identity, numbers_of, parts_of
from tunetrail.samples import all_shapes


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {
        "shape": "chat",
        "messages": [{"role": role, "content": content} for role, content in turns],
    }


def vector(embedding: Any) -> dict[str, Any]:
    return {"shape": "vector", "text": "t", "embedding": embedding}


PAIR = {"shape": "pair", "anchor": "a", "positive": "p", "negative": None}


@pytest.mark.parametrize(
    ("record", "twins", "compared", "answer"),
    [
        (PAIR, ["a", "p"], ["a", "p", None], None),
        (
            {"shape": "score", "sentence1": "s", "sentence2": "t", "score": 0.5},
            ["s", "t"],
            ["s", "t"],
            0.5,
        ),
        ({"shape": "label", "text": "t", "label": "l"}, ["t"], ["t"], "l"),
        ({"shape": "text", "text": "t"}, ["t"], ["t"], None),
        ({"shape": "document", "text": "t"}, ["t"], ["t"], None),
        ({"shape": "completion", "input": "i", "output": "o"}, ["i"], ["i", "o"], None),
        (
            {"shape": "preference", "prompt": "p", "chosen": "c", "rejected": "r"},
            ["p"],
            ["p", "c", "r"],
            None,
        ),
        ({"shape": "text", "text": None}, [], [None], None),
    ],
)
def test_parts_of_each_shape(
    record: dict[str, Any], twins: list[str], compared: list[Any], answer: Any
) -> None:
    row_parts = parts_of(record)
    assert (list(row_parts.twins), list(row_parts.compared), row_parts.answer) == (
        twins,
        compared,
        answer,
    )
    assert row_parts.answered_by_text == (record["shape"] == "completion")
    assert row_parts.answered_by_choice == (record["shape"] == "preference")
    assert row_parts.whole is None and list(row_parts.setting) == [record["shape"]]


def test_parts_of_a_conversation() -> None:
    row_parts = parts_of(
        chat(("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b"))
    )

    assert list(row_parts.twins) == ["u", "u\na\nv\nb"] and row_parts.whole == "u\na\nv\nb"
    assert list(row_parts.compared) == ["u\na\nv", "b"] and row_parts.answered_by_text
    assert list(row_parts.setting) == [
        "chat",
        "s",
        ["system", "user", "assistant", "user", "assistant"],
    ]

    unanswered = parts_of(chat(("user", "u")))
    assert list(unanswered.compared) == ["u", None] and not unanswered.answered_by_text


def test_rows_are_compared_by_few_enough_texts() -> None:
    for shape in all_shapes():
        record = {"shape": shape.name, **dict.fromkeys(shape.columns)}
        assert len(parts_of(record).compared) <= TEXTS_PER_ROW


@pytest.mark.parametrize(
    ("record", "second_record", "equal"),
    [
        (PAIR, dict(PAIR), True),
        (PAIR, {**PAIR, "group": "g", "row_id": 9}, True),
        (PAIR, {"shape": "pair", "anchor": "a", "positive": "p"}, True),
        (PAIR, {**PAIR, "negative": ""}, False),
        (PAIR, {**PAIR, "anchor": "A"}, False),
        (PAIR, {**PAIR, "anchor": "ap", "positive": ""}, False),
        ({"shape": "text", "text": "t"}, {"shape": "document", "text": "t"}, False),
        (vector([1, 2]), vector(np.array([1.0, 2.0])), True),
        (vector([1.0]), vector([1.0, 0.0]), False),
        (chat(("user", "a"), ("assistant", "b")), chat(("user", "a"), ("assistant", "b")), True),
        (chat(("user", "a"), ("assistant", "b")), chat(("user", "a"), ("user", "b")), False),
    ],
)
def test_identity_is_that_of_shape_and_content(
    record: dict[str, Any], second_record: dict[str, Any], equal: bool
) -> None:
    assert (identity(record) == identity(second_record)) == equal and len(identity(record)) == 16


def test_hash_of_knows_values_of_other_types_apart() -> None:
    values = [
        None,
        "",
        "1",
        1.0,
        math.nan,
        math.inf,
        ["1"],
        [1.0],
        [],
        b"1",
        "\ud800",
        "\0",
        ["1", "2"],
        ["12"],
    ]

    assert len({hash_of([value]) for value in values}) == len(values)
    assert hash_of([-0.0]) == hash_of([0]) and hash_of(["a", "b"]) != hash_of(["ab"]) != hash_of(
        ["b", "a"]
    )


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("no number at all", []),
        ("3.5 and 35, then 3,5.", ["3.5", "35", "3,5"]),
        ("-5 or 5", ["-5", "5"]),
        ("12 * 4", ["12", "*4"]),
        ("12 / 4", ["12", "/4"]),
        ("12*4 is not 12/4", ["12*4", "12/4"]),
        ("at 10:30 on the 2ND", ["10:30", "2nd"]),
        ("\uff11\uff12 x\u00b2", ["12", "2"]),
        ("(7) [8]!", ["7", "8"]),
    ],
)
def test_numbers_keep_their_signs_and_operators(text: str, numbers: list[str]) -> None:
    assert numbers_of(text) == numbers
