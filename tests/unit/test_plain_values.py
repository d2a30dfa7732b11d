import json
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunetrail.plain_values import NOT_PLAIN, plain_chat_as_json, plain_values, texts_as_json


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Holder:
    value: Any
    hidden: Any = field(default=None, metadata=NOT_PLAIN)

    @property
    def doubled(self) -> Any:
        return self.value * 2


@dataclass(frozen=True, kw_only=True)
class Renamed:
    value: int

    def to_dict(self) -> dict[str, Any]:
        return {"renamed": self.value}


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (1.5, 1.5),
        (math.inf, None),
        (-math.inf, None),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.float64("inf"), None),
        (np.array([[1.0, np.inf]]), [[1.0, None]]),
        ((1, (2, math.inf)), [1, [2, None]]),
        ({"a": (1, 2)}, {"a": [1, 2]}),
        (Path("models") / "x", "models/x"),
        (Colour.RED, "red"),
        (date(2026, 11, 24), "2026-11-24"),
        (datetime(2026, 11, 24, tzinfo=UTC), "2026-11-24T00:00:00+00:00"),
        (Holder(value=math.inf, hidden=1), {"value": None}),
        ([Renamed(value=1)], [{"renamed": 1}]),
    ],
)
def test_plain_values_are_what_json_can_hold(value: Any, plain: Any) -> None:
    result = plain_values(Holder(value=value))

    assert result == {"value": plain}
    assert type(result["value"]) is type(plain)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_plain_values_add_the_named_properties_and_leave_out_hidden_fields() -> None:
    result = plain_values(Holder(value=2, hidden=object()), "doubled")

    assert result == {"value": 2, "doubled": 4}


TEXTS = [
    "",
    "plain",
    'quote " and \\',
    "tab\t, line\n, \x00, \x7f, \u2028",
    "Grüße 你好 🎉",
    "\ud800",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_written_as_json_writes_them(text: str) -> None:
    texts = {"second": text, text: "first"}
    assert texts_as_json(texts) == json.dumps(texts)

    chat = {"messages": [{"role": "user", "content": text}, {"role": text, "content": "x"}]}
    assert plain_chat_as_json(chat) == (json.dumps(chat), json.dumps(chat, sort_keys=True))


@pytest.mark.parametrize(
    "content",
    [
        {"messages": [{"content": "x", "role": "user"}]},
        {"messages": [{"role": "user", "content": "x", "weight": 0.0}]},
        {"messages": [{"role": "user", "content": "x"}], "tools": "[]"},
    ],
)
def test_other_chats_are_left_to_the_encoder(content: dict[str, Any]) -> None:
    assert plain_chat_as_json(content) is None
