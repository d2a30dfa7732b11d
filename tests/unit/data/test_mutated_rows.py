"""Ten thousand rows of every shape that nobody would write: each comes out valid or is set aside with a reason."""

import datetime
import decimal
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tunetrail.config import (
    CheckConfig,
    CleaningConfig,
    PreparationConfig,
    SplitConfig,
    ValidationConfig,
)
from tunetrail.data import row_files
from tunetrail.data.flow.chunk_steps import ChunkSteps
from tunetrail.data.flow.preparation import Preparation
from tunetrail.data.flow.prepared import SET_ASIDE, PreparedSession, side_file
from tunetrail.data.sides import SIDES
from tunetrail.samples import (
    COMMON_COLUMNS,
    Sample,
    SampleKind,
    all_shapes,
    shape_named,
    shapes_of_kind,
)
from tunetrail.samples.values import ROLES

ROWS_OF_SHAPE = 1_350
WORDS = [
    "the",
    "a",
    "value",
    "returns",
    "row",
    "session",
    "of",
    "model",
    "text",
    "is",
    "to",
    "and",
    "an",
    "in",
    "for",
    "index",
    "byte",
]
EMBEDDING_SHAPES = tuple(shape.name for shape in shapes_of_kind(SampleKind.EMBEDDING))
TEXT_SHAPES = tuple(
    shape.name for shape in shapes_of_kind(SampleKind.LLM) if shape.objective == "supervised"
)


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = [value]
    return value


DEEP = (
    nested(50),
    nested(700),
    nested(950),
    nested(100_000),
    {"a": nested(2_000)},
    [nested(3), {"b": [1]}],
)
HOSTILE: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: None,
    lambda rng: rng.choice((0, 1, -1, 2**63, -(2**63) - 1, 10**400, -(10**30))),
    lambda rng: rng.choice((0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1e308)),
    lambda rng: rng.choice((True, False)),
    lambda rng: rng.choice((b"", b"\xff\x00", bytearray(b"x"), memoryview(b"y"))),
    lambda rng: rng.choice(
        (set(), {1, "a"}, frozenset({2}), (), [], {}, [None], {"": None}, {None: 1}, {1: {2: 3}})
    ),
    lambda rng: rng.choice(DEEP),
    lambda rng: rng.choice(
        (object(), len, int, 1j, decimal.Decimal("NaN"), range(3), pd.NA, pd.NaT)
    ),
    lambda rng: rng.choice(
        (datetime.datetime.now(datetime.UTC), datetime.date(1, 1, 1), datetime.timedelta(1))
    ),
    lambda rng: rng.choice(
        (
            np.float32(1),
            np.int64(3),
            np.array([]),
            np.array([[1.0]]),
            np.array("x"),
            np.array([np.nan]),
            np.bool_(True),
        )
    ),
    lambda rng: rng.choice(
        (
            "\ud800",
            "a\udfff b",
            "\ud83d",
            "\x00",
            "a\x00b",
            "\x1b[31m",
            "\ufeff",
            "\u202e",
            "\ufffe",
        )
    ),
    lambda rng: rng.choice(
        ("", " ", "\n", "\u200b", "\u00a0", "\t\r\n", "\u2028", "&nbsp;", "<p></p>", "<!-- -->")
    ),
    lambda rng: rng.choice(
        (
            "<" * 5_000,
            "&" * 5_000,
            "@" * 5_000,
            "[" * 5_000,
            "?" * 5_000,
            "1 " * 5_000,
            "\u0301" * 999,
        )
    ),
    lambda rng: rng.choice(
        ("{}", "[[1]]", "null", "NaN", "{'role': 'user'}", "'; DROP TABLE rows;--", "../..")
    ),
    lambda rng: rng.choice(
        (nested(4), [{"role": "user", "content": "x"}], {"role": "assistant", "content": "y"})
    ),
    lambda rng: [
        rng.choice((1.0, math.nan, "1", None, True, math.inf, [1.0], 10**400))
        for _ in range(rng.randint(1, 6))
    ],
    lambda rng: [message(rng) for _ in range(rng.randint(0, 5))],
    lambda rng: sentence(rng),
)
"""Values that a column may be hit by."""


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(3, 20))) + rng.choice(
        (".", "?", "", " é", " 日本", " 🎉")
    )


def huge(rng: random.Random, characters: int) -> str:
    piece = rng.choice(
        ("a", "ab ", "<b>", "&lt;", "é", "1", "a@", "x.", "\n", "{", sentence(rng), "\u0301", "-")
    )
    return (piece * (characters // len(piece) + 1))[:characters]


def message(rng: random.Random) -> Any:
    turn: dict[str, Any] = {"role": rng.choice(ROLES), "content": sentence(rng)}
    fault = rng.random()
    if fault < 0.1:
        turn[rng.choice(("role", "content"))] = rng.choice(
            (None, 3, "", "robot", [], "\udc00", {"a": 1}, ["user"])
        )
    elif fault < 0.15:
        turn.pop(rng.choice(("role", "content")))
    elif fault < 0.2:
        turn["extra"] = object()
    return turn if fault < 0.97 else rng.choice((None, 1, "turn", []))


def good(shape: str, rng: random.Random) -> dict[str, Any]:
    columns = shape_named(shape).columns
    turns = [{"role": role, "content": sentence(rng)} for role in ("user", "assistant")]
    special: dict[str, Callable[[], Any]] = {
        "score": lambda: rng.random(),
        "label": lambda: rng.choice(WORDS),
        "embedding": lambda: [rng.gauss(0, 1) for _ in range(4)],
        "messages": lambda: turns,
    }
    return {column: special.get(column, lambda: sentence(rng))() for column in columns}


def mutated(shape: str, rng: random.Random) -> Sample:
    content: dict[str, Any] = good(shape, rng)
    extras: dict[str, Any] = {"shape": shape, "group": None, "timestamp": None, "weight": None}
    for _ in range(rng.choice((0, 1, 1, 2))):
        column = rng.choice(list(content))
        content[column] = rng.choice(HOSTILE)(rng)
    if rng.random() < 0.1:
        extras["shape"] = rng.choice(
            (None, "", "pear", 3, "chat\0", math.nan, ["pair"], "document", "pair", b"text")
        )
    if rng.random() < 0.1:
        extras["group"] = rng.choice(HOSTILE)(rng)
    if rng.random() < 0.1:
        extras["timestamp"] = rng.choice(
            ("2026-11-24T12:00:00+00:00", "soon", "9999-99-99", "", 3, -1e30, "1" * 99)
        )
    if rng.random() < 0.2:
        extras["weight"] = rng.choice((0.5, 3, *(hostile(rng) for hostile in HOSTILE)))
    return Sample(kind=SampleKind.EMBEDDING, content=content, **extras)


def hostile_frame(shapes: tuple[str, ...], seed: str) -> pd.DataFrame:
    rng = random.Random(seed)
    listed = [mutated(shape, rng) for shape in shapes for _ in range(ROWS_OF_SHAPE)]
    rng.shuffle(listed)
    columns = dict.fromkeys(column for sample in listed for column in sample.content)
    records = [
        {
            "row_id": row_id,
            "shape": sample.shape,
            "group": sample.group,
            "timestamp": sample.timestamp,
            "weight": sample.weight,
            **sample.content,
        }
        for row_id, sample in enumerate(listed, start=1)
    ]
    text_columns = [
        column for column in columns if column not in ("score", "embedding", "messages")
    ]
    for index, characters in enumerate([100_000] * 12 + [1_000_000] * 2):
        record = records[index * 50]
        for column in [column for column in text_columns if column in record][:1]:
            record[column] = huge(rng, characters)
    frame = pd.DataFrame({"row_id": [record["row_id"] for record in records]})
    for column in ("shape", *columns, *COMMON_COLUMNS):
        frame[column] = pd.Series([record.get(column) for record in records], dtype=object)
    return frame


def prepare(rows: pd.DataFrame, kind: SampleKind, folder: Path, **settings: Any) -> PreparedSession:
    validation = ValidationConfig(max_rejected_share=1.0, max_characters=2_000_000)
    for check in ("wrong_type", "missing", "empty"):
        setattr(validation.rows, check, CheckConfig(threshold=1.0, set_aside=True))
    preparation = Preparation(
        steps=ChunkSteps(kind=kind, validation=validation, cleaning=CleaningConfig()),
        split=SplitConfig(**settings),
        config=PreparationConfig(chunk_rows=400, workers=1, cache_gigabytes=0.0),
        seed=0,
    )
    return preparation.run([rows[:700], rows[700:]], folder)


def only_shapes(rows: pd.DataFrame, shapes: tuple[str, ...]) -> pd.DataFrame:
    """Without valid rows of other shapes, which sessions of embedding samples or of preferences refuse as a whole."""
    known = [shape.name for shape in all_shapes() if shape.name not in shapes]
    return rows[
        [not (isinstance(shape, str) and shape in known) for shape in rows["shape"]]
    ].reset_index(drop=True)


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        *((SampleKind.EMBEDDING, (shape,)) for shape in EMBEDDING_SHAPES),
        (SampleKind.LLM, TEXT_SHAPES),
        (SampleKind.LLM, ("preference",)),
    ],
    ids=str,
)
def test_mutated_rows_come_out_valid_or_are_set_aside_with_a_reason(
    kind: SampleKind, shapes: tuple[str, ...], tmp_path: Path
) -> None:
    rows = hostile_frame(shapes, "mutated")
    if shapes != TEXT_SHAPES:
        rows = only_shapes(rows, shapes)

    session = prepare(rows, kind, tmp_path)
    assert session.stopped is None

    set_aside = row_files.read_rows(tmp_path / SET_ASIDE)
    rows_kept = pd.concat([session.frame(side) for side in SIDES], ignore_index=True)
    assert sorted([*rows_kept["row_id"], *set_aside["row_id"]]) == list(rows["row_id"])
    assert session.rows_in == len(rows) and len(rows_kept) > 0 and len(set_aside) > 0
    assert all(isinstance(reason, str) and reason.strip() for reason in set_aside["reason"])

    for record in rows_kept.to_dict("records"):
        check_valid(record, shapes)
    for side in SIDES:
        schema = pq.read_schema(side_file(tmp_path, side))
        assert schema == row_files.schema_of(schema.names)
    session.split()


def check_valid(record: dict[Any, Any], shapes: tuple[str, ...]) -> None:
    assert record["shape"] in shapes
    shape = shape_named(record["shape"])
    for column in shape.columns:
        value = record[column]
        if column == "score":
            assert isinstance(value, float) and math.isfinite(value)
        elif column == "embedding":
            assert len(value) > 0 and np.all(np.isfinite(value)) and np.any(value)
        elif column == "messages":
            assert {turn["role"] for turn in value} <= set(ROLES)
            assert any(turn["role"] == "assistant" and turn["content"].strip() for turn in value)
            assert all(turn["content"].encode() is not None for turn in value)
        elif value is not None or column in shape.required:
            assert value.strip() and value.encode()
    assert record["group"] is None or isinstance(record["group"], str)
    weight = record["weight"]
    assert weight is None or (isinstance(weight, float) and math.isfinite(weight) and weight > 0.0)
    if record["shape"] == "preference":
        assert record["chosen"] != record["rejected"]
    assert record["timestamp"] is None or datetime.datetime.fromisoformat(record["timestamp"])
