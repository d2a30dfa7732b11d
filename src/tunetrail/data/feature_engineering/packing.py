"""Packing: which rows share one sequence of fixed length, so that little of it is padding. Knows lengths, no text."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackingPlan:
    """Which rows share a sequence.

    Attributes:
        packs: Per sequence the positions of its rows, the longest first.
        capacity: Tokens that a sequence holds.
        tokens: Tokens of all packed rows.
        fill: Share of the sequences' capacity that tokens take, between 0 and 1; 0 where nothing is packed.
        padding_without: Share of padding if the same rows went into batches of like length, padded to each batch's
            longest, instead.
        too_long: Positions of the rows that are longer than `capacity`, in no pack.
    """

    packs: tuple[tuple[int, ...], ...]
    capacity: int
    tokens: int
    fill: float
    padding_without: float
    too_long: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the figures without the packs themselves, JSON-serialisable."""
        return {
            "packs": len(self.packs),
            "capacity": self.capacity,
            "tokens": self.tokens,
            "fill": self.fill,
            "padding_without": self.padding_without,
            "too_long": len(self.too_long),
        }


class _OpenPacks:
    """Packs by the room left in them, with a search for the least room that is enough.

    The rooms that occur are bits of a two-level set, both levels about the square root of the capacity wide, so that a
    search reads two integers however many packs are open.
    """

    def __init__(self, capacity: int) -> None:
        self._width = math.isqrt(capacity) + 1
        self._words = [0] * (capacity // self._width + 1)
        self._summary = 0
        self._packs: dict[int, list[int]] = {}

    def add(self, pack: int, room: int) -> None:
        """Keep a pack that has so much room."""
        word, bit = divmod(room, self._width)
        self._words[word] |= 1 << bit
        self._summary |= 1 << word
        self._packs.setdefault(room, []).append(pack)

    def take(self, length: int) -> tuple[int, int] | None:
        """Remove and return (pack, room) with the least room of at least `length`; None if there is none."""
        room = self._least_room(length)
        if room is None:
            return None
        packs = self._packs[room]
        pack = packs.pop()
        if not packs:
            del self._packs[room]
            word, bit = divmod(room, self._width)
            self._words[word] ^= 1 << bit
            if not self._words[word]:
                self._summary ^= 1 << word
        return pack, room

    def _least_room(self, length: int) -> int | None:
        word, bit = divmod(length, self._width)
        here = self._words[word] >> bit
        if here:
            return length + _lowest_bit(here)
        above = self._summary >> (word + 1)
        if not above:
            return None
        word += 1 + _lowest_bit(above)
        return word * self._width + _lowest_bit(self._words[word])


def packing_plan(lengths: _Integers, capacity: int, batch_size: int = 8) -> PackingPlan:
    """Plan sequences by best-fit decreasing: each row, the longest first, goes where the least room is left over.

    Best-fit decreasing needs at most 11/9 of the fewest sequences possible, plus one (Johnson et al. 1974,
    https://doi.org/10.1137/0203025); for language models, Ding et al. 2024 (https://arxiv.org/abs/2404.10830). Takes
    O(n log n); equal lengths keep the rows' order, so equal input gives an equal plan.

    Args:
        lengths: Tokens per row, [rows].
        capacity: Tokens that a sequence holds.
        batch_size: Rows of a batch in `padding_without`.

    Raises:
        ValueError: A length is negative, or capacity or batch size is below 1.
    """
    counts = np.asarray(lengths, dtype=np.int64).ravel()
    if capacity < 1 or batch_size < 1 or (len(counts) and counts.min() < 0):
        raise ValueError(
            f"capacity and batch_size must be at least 1 and lengths at least 0, got {capacity}, {batch_size} and "
            f"{counts.min() if len(counts) else 'none'}."
        )
    order = np.argsort(-counts, kind="stable")
    longest_first = counts[order]
    skipped = int(np.searchsorted(-longest_first, -capacity, side="left"))
    tokens = int(longest_first[skipped:].sum())
    packs = _packed(
        order[skipped:].tolist(), longest_first[skipped:].tolist(), min(capacity, max(tokens, 1))
    )
    return PackingPlan(
        packs=tuple(tuple(pack) for pack in packs),
        capacity=capacity,
        tokens=tokens,
        fill=tokens / (len(packs) * capacity) if packs else 0.0,
        padding_without=_padding(longest_first[skipped:], batch_size),
        too_long=tuple(sorted(order[:skipped].tolist())),
    )


def _packed(rows: list[int], lengths: list[int], capacity: int) -> list[list[int]]:
    packs: list[list[int]] = []
    open_packs = _OpenPacks(capacity)
    for row, length in zip(rows, lengths, strict=True):
        found = open_packs.take(length)
        pack, room = (len(packs), capacity) if found is None else found
        if found is None:
            packs.append([])
        packs[pack].append(row)
        open_packs.add(pack, room - length)
    return packs


def _lowest_bit(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _padding(longest_first: _Integers, batch_size: int) -> float:
    """Return the share of padding in batches of so many rows, each padded to its longest."""
    if len(longest_first) == 0:
        return 0.0
    heads = longest_first[::batch_size]
    sizes = np.full(len(heads), batch_size, dtype=np.int64)
    sizes[-1] = len(longest_first) - batch_size * (len(heads) - 1)
    positions = int((heads * sizes).sum())
    return 1.0 - int(longest_first.sum()) / positions if positions else 0.0
