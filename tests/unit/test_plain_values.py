import json
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunetrail.plain_values import NOT_PLAIN, plain_values


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
