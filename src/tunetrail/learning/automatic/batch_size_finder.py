"""The batch size for a model on this machine: candidates are tried in ascending order, as far as memory is sure to do.

Knows rows by their lengths only, and a model by what it computes.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import numpy as np

from tunetrail.errors import ConfigError

logger = logging.getLogger(__name__)

USABLE_SHARE = 0.8
"""Of the free memory: the rest is for what isn't measured here, and for other processes."""
TOLERANCE = 0.03
"""Two speeds that differ by less are the same."""
_PATIENCE = 2
_FOOTHOLDS = (0.125, 0.25, 0.5)
_GIB = 2.0**30


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredBatch:
    """One candidate.

    Attributes:
        rows: Rows that go through the model at once.
        tokens_per_second: Real tokens, forward and backward, of rows as they mostly are; 0 where it wasn't measured.
        memory_bytes: What a training takes beside the model with the longest rows: gradients, the optimizer's state
            and activations. Extrapolated where the candidate wasn't tried.
        fits: Whether that is there.
    """

    rows: int
    tokens_per_second: float
    memory_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSizeResult:
    """The batch size that takes the place of `auto`.

    Attributes:
        batch_size: Rows of a micro-batch.
        accumulate: Micro-batches of a step, on each rank.
        mini_batch_size: Above 0: a micro-batch goes through the model in pieces of so many rows (GradCache).
        measured: The candidates.
    """

    batch_size: int
    accumulate: int
    mini_batch_size: int = 0
    measured: tuple[MeasuredBatch, ...] = ()

    @property
    def memory_bytes(self) -> int:
        """What it takes, as measured; 0 where nothing was."""
        rows = self.mini_batch_size or self.batch_size
        return next((each.memory_bytes for each in self.measured if each.rows == rows), 0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = {**asdict(self), "measured": [asdict(each) for each in self.measured]}
        # Stored under the name that the first version gave it.
        plain["piece_rows"] = plain.pop("mini_batch_size")
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "BatchSizeResult":
        """Return what `to_dict` was made of; raises `KeyError` or `TypeError` where something else is there."""
        measured = tuple(MeasuredBatch(**each) for each in plain["measured"])
        return cls(
            batch_size=plain["batch_size"],
            accumulate=plain["accumulate"],
            mini_batch_size=plain["piece_rows"],
            measured=measured,
        )


class BatchProbe(Protocol):
    """What tries batches."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row."""

    def memory(self, rows: Sequence[int], mini_batch_size: int) -> int | None:
        """Return the bytes that a forward and a backward pass over these rows took; None where they weren't there."""

    def speed(self, rows: Sequence[int], mini_batch_size: int) -> float:
        """Return the tokens per second of forward and backward passes over these rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSearch:
    """What is looked for.

    Attributes:
        rows: Rows of a step on each rank.
        in_mini_batches: The loss compares rows with one another, so a step stays one batch, and may go through the
            model in mini-batches; else it may be divided into micro-batches.
        like_lengths: Whether rows of like length share a batch.
        fixed_bytes: Gradients and the optimizer's state.
        limit_bytes: What may be taken in all.
        seconds: Time after which no further candidate is tried.
    """

    rows: int
    in_mini_batches: bool
    like_lengths: bool
    fixed_bytes: int
    limit_bytes: int
    seconds: float = 60.0

    def candidates(self) -> list[int]:
        """Return 1, 2, 4, ... up to the rows of a step; each gives way to a divisor of them that is not much smaller.

        Without a divisor near, the rows that fill as many micro-batches evenly.
        """
        found = []
        for power in (2**exponent for exponent in range(self.rows.bit_length())):
            divisor = max(each for each in range(1, power + 1) if self.rows % each == 0)
            found.append(
                divisor if 2 * divisor >= power else -(-self.rows // -(-self.rows // power))
            )
        return sorted({*found, self.rows})

    def tried_rows(self, candidate: int) -> int:
        """Return how many rows a candidate is tried with: two pieces, unless it is the whole step."""
        return min(2 * candidate, self.rows) if self.in_mini_batches else candidate

    def mini_batch_size(self, candidate: int) -> int:
        """Return the rows of a piece, 0 where the batch is whole."""
        return candidate if self.in_mini_batches and candidate < self.rows else 0


def find_batch_size(
    search: BatchSearch,
    probe: BatchProbe,
    *,
    on_candidate: Callable[[int, int], None] = lambda number, count: None,
    clock: Callable[[], float] = time.monotonic,
) -> BatchSizeResult:
    """Try candidates and return the smallest that is as fast as the fastest, within `TOLERANCE`.

    Smaller ones take less memory. Memory is tried with the longest rows, and never where the last candidate says that
    the next wouldn't fit: on a CPU, the system would end the process. The search ends where a further candidate
    doesn't fit, or two in a row are no faster.

    Args:
        search: What is looked for.
        probe: Tries it.
        on_candidate: Called with a candidate's number and their count.
        clock: Gives seconds.

    Raises:
        ConfigError: Not even one row fits.
    """
    begun, candidates = clock(), search.candidates()
    measured: list[MeasuredBatch] = []
    memory = _Memory(search, probe)
    for (
        share
    ) in _FOOTHOLDS:  # single rows, shorter than the longest: a safe way to the first candidate
        memory.climb(share)
    queue, slower, fastest = list(candidates), 0, 0.0
    while queue:
        candidate = queue.pop(0)
        on_candidate(candidates.index(candidate), len(candidates))
        one = _measured(search, probe, memory, candidate)
        measured.append(one)
        if not one.fits:
            break
        slower = 0 if one.tokens_per_second > fastest * (1.0 + TOLERANCE) else slower + 1
        fastest = max(fastest, one.tokens_per_second)
        spent = clock() - begun
        if slower >= _PATIENCE or spent >= search.seconds:
            queue = _leap(search, probe, queue, fastest)
    return _result(search, _chosen(search, measured), measured)


class _Memory:
    """What was seen of memory so far, and what it says of more rows."""

    def __init__(self, search: BatchSearch, probe: BatchProbe) -> None:
        self.search = search
        self.probe = probe
        self.lengths = np.asarray(probe.lengths)
        self.order = np.argsort(-self.lengths, kind="stable")
        self._per_token = 0.0

    def climb(self, share: float) -> None:
        """Try a row of about this share of the longest's tokens, where it will fit."""
        row = int(np.abs(self.lengths - share * self.lengths[self.order[0]]).argmin())
        rows, mini_batch_size = ([row, row], 1) if self.search.in_mini_batches else ([row], 0)
        if self.needed(rows, mini_batch_size) <= self.search.limit_bytes:
            self.take(rows, mini_batch_size)

    def longest(self, count: int) -> list[int]:
        return [int(row) for row in self.order[:count]]

    def needed(self, rows: Sequence[int], mini_batch_size: int) -> int:
        """Return the bytes that these rows will take: activations grow with the tokens that are there at once."""
        return self.search.fixed_bytes + int(self._per_token * self._tokens(rows, mini_batch_size))

    def take(self, rows: Sequence[int], mini_batch_size: int) -> int | None:
        """Return the bytes that these rows took, None where they weren't there."""
        activations = self.probe.memory(rows, mini_batch_size)
        if activations is None:
            return None
        self._per_token = activations / self._tokens(rows, mini_batch_size)
        return self.search.fixed_bytes + activations

    def _tokens(self, rows: Sequence[int], mini_batch_size: int) -> int:
        return int(self.lengths[list(rows[: mini_batch_size or None])].sum())


def _measured(
    search: BatchSearch, probe: BatchProbe, memory: _Memory, candidate: int
) -> MeasuredBatch:
    rows, mini_batch_size = (
        memory.longest(search.tried_rows(candidate)),
        search.mini_batch_size(candidate),
    )
    needed = memory.needed(rows, mini_batch_size)
    taken = memory.take(rows, mini_batch_size) if needed <= search.limit_bytes else None
    memory_bytes = needed if taken is None else taken
    fits = taken is not None and taken <= search.limit_bytes
    typical = typical_rows(probe.lengths, len(rows), like_lengths=search.like_lengths)
    speed = probe.speed(typical, mini_batch_size) if fits else 0.0
    return MeasuredBatch(
        rows=candidate, tokens_per_second=speed, memory_bytes=memory_bytes, fits=fits
    )


def _leap(search: BatchSearch, probe: BatchProbe, queue: list[int], speed: float) -> list[int]:
    """Return what to try after larger pieces brought nothing: the whole batch, which needs no second pass."""
    seconds = search.rows * float(np.mean(probe.lengths)) / speed
    return queue[-1:] if search.in_mini_batches and seconds < search.seconds else []


def _chosen(search: BatchSearch, measured: Sequence[MeasuredBatch]) -> MeasuredBatch:
    fitting = [each for each in measured if each.fits]
    if not fitting:
        least = measured[0]
        raise ConfigError(
            f"training.batch_size must leave room for one row, got 'auto' where a row beside its gradients and the "
            f"optimizer's state takes {least.memory_bytes / _GIB:.2f} GiB and {search.limit_bytes / _GIB:.2f} GiB may "
            f"be taken ({USABLE_SHARE:.0%} of what is free). Lower max_length, set "
            "training.memory.gradient_checkpointing=true, or train an adapter in place of all weights."
        )
    fastest = max(each.tokens_per_second for each in fitting)
    good = [each for each in fitting if each.tokens_per_second >= (1.0 - TOLERANCE) * fastest]
    return good[-1] if good[-1].rows == search.rows and search.in_mini_batches else good[0]


def _result(
    search: BatchSearch, chosen: MeasuredBatch, measured: Sequence[MeasuredBatch]
) -> BatchSizeResult:
    return replace(
        divided(search.rows, chosen.rows, in_mini_batches=search.in_mini_batches),
        measured=tuple(measured),
    )


def divided(rows: int, at_once: int, *, in_mini_batches: bool) -> BatchSizeResult:
    """Return how a step of `rows` goes through the model `at_once` rows at a time.

    Args:
        rows: Rows of a step on each rank.
        at_once: Rows that go through the model at once.
        in_mini_batches: Whether a step stays one batch.
    """
    if in_mini_batches:
        return BatchSizeResult(
            batch_size=rows, accumulate=1, mini_batch_size=at_once if at_once < rows else 0
        )
    return BatchSizeResult(batch_size=at_once, accumulate=-(-rows // at_once))


def agreed(
    found: BatchSizeResult, values: Sequence[int], *, rows: int, in_mini_batches: bool
) -> BatchSizeResult:
    """Return what all ranks take: the least that one of them has room for.

    Args:
        found: What this rank has found.
        values: What each rank has found: rows that go through the model at once.
        rows: Rows of a step on each rank.
        in_mini_batches: Whether a step stays one batch.
    """
    return replace(
        divided(rows, min(values), in_mini_batches=in_mini_batches), measured=found.measured
    )


def typical_rows(lengths: Sequence[int], count: int, *, like_lengths: bool) -> list[int]:
    """Return rows as a batch mostly has them: of all lengths, or of lengths about the median where like ones share it.

    Args:
        lengths: Tokens of each row.
        count: Number of rows, at most as many as there are.
        like_lengths: Whether rows of like length share a batch.
    """
    order = np.argsort(np.asarray(lengths), kind="stable")
    if like_lengths:
        start = (len(order) - count) // 2
        return [int(row) for row in order[start : start + count]]
    places = ((np.arange(count) + 0.5) * len(order) / count).astype(int)
    return [int(row) for row in order[places]]
