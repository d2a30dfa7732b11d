"""Rows for checks that need not see all of them."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

SAMPLED = 1000
"""Rows from which shares are estimated."""


def sampled(items: Sequence[Item], count: int = SAMPLED) -> list[Item]:
    """Return at most so many items, spread evenly."""
    step = max(-(-len(items) // count), 1)
    return list(items[::step])


def share(part: float, whole: float) -> str:
    """Return a share as a percentage, for messages."""
    return f"{100.0 * part / whole:.3g} %"
