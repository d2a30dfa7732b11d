"""Find the batch size for a model on this machine, without ever running out of memory.

Candidates are tried in ascending order, as long as the memory is sure to suffice. Knows rows by
their lengths only, and a model by what it computes.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from tunetrail.errors import ConfigError
from tunetrail.plain_values import plain_values

logger = logging.getLogger(__name__)

USABLE_SHARE = 0.8
"""Share of the free memory that is used: the rest is for what isn't measured here, and for other
processes."""
TOLERANCE = 0.03
"""Speeds that differ by less than this share count as equal."""
# Candidates in a row that are no faster, after which the search ends.
_PATIENCE = 2
# Lengths of the single rows that are tried first, as shares of the longest row's length.
_FOOTHOLDS = (0.125, 0.25, 0.5)
_GIB = 2.0**30


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredBatch:
    """What was measured of one candidate.

    Attributes:
        rows: Rows that go through the model at once.
        tokens_per_second: Tokens, without padding, of forward and backward passes over typical
            rows; 0 if not measured.
        memory_bytes: What a training takes in addition to the model, with the longest rows:
            gradients, optimizer state and activations. Extrapolated if the candidate wasn't tried.
        fits: Whether that much memory may be taken.
    """

    rows: int
    tokens_per_second: float
    memory_bytes: int
    fits: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSizeResult:
    """The batch size that replaces `auto`.

    Attributes:
        batch_size: Rows of a micro-batch, over all devices.
        accumulate: Micro-batches of a step.
        mini_batch_size: Above 0, a device's share of a micro-batch goes through the model in
            mini-batches of this many rows (GradCache).
        measured: The candidates.
        devices: Number of devices that share a micro-batch.
    """

    batch_size: int
    accumulate: int
    mini_batch_size: int = 0
    measured: tuple[MeasuredBatch, ...] = ()
    devices: int = 1

    @property
    def rows_at_once(self) -> int:
        """Rows that go through the model of a device at once."""
        return self.mini_batch_size or -(-self.batch_size // self.devices)

    @property
    def chosen(self) -> MeasuredBatch | None:
        """What was measured of these rows; None if nothing was."""
        return next((batch for batch in self.measured if batch.rows == self.rows_at_once), None)

    @property
    def memory_bytes(self) -> int:
        """Memory that it takes on each device, as measured; 0 if nothing was measured."""
        return self.chosen.memory_bytes if self.chosen else 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        plain = plain_values(self)
        # Stored under the name that the first version gave it.
        plain["piece_rows"] = plain.pop("mini_batch_size")
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "BatchSizeResult":
        """Return the result that `to_dict` has turned into plain values.

        Raises:
            KeyError: A value is missing.
            TypeError: A candidate has other values.
        """
        return cls(
            batch_size=plain["batch_size"],
            accumulate=plain["accumulate"],
            mini_batch_size=plain["piece_rows"],
            measured=tuple(MeasuredBatch(**candidate) for candidate in plain["measured"]),
            # Runs of earlier versions have searched for one device only.
            devices=plain.get("devices", 1),
        )


class BatchProbe(Protocol):
    """Tries batches."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row."""

    def memory(self, rows: Sequence[int], mini_batch_size: int) -> int | None:
        """Return the bytes that a forward and backward pass took; None if the memory was full."""

    def speed(self, rows: Sequence[int], mini_batch_size: int) -> float:
        """Return the tokens per second of forward and backward passes over these rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSearch:
    """What is searched for.

    All devices compute a share of each micro-batch, so what fits one of them fits all.

    Attributes:
        rows: Rows of a step, over all devices.
        in_mini_batches: True if the loss compares rows with one another, so that a step stays one
            batch, which may go through the model in mini-batches; False if a step may be divided
            into micro-batches.
        by_length: Whether rows of similar length share a batch.
        fixed_bytes: Gradients and optimizer state.
        limit_bytes: Memory that may be taken on a device in all.
        devices: Number of devices.
        seconds: Time after which no further candidate is tried.
    """

    rows: int
    in_mini_batches: bool
    by_length: bool
    fixed_bytes: int
    limit_bytes: int
    devices: int = 1
    seconds: float = 60.0

    @property
    def rows_of_device(self) -> int:
        """The largest share of a step's rows that a device computes."""
        return -(-self.rows // self.devices)

    def candidates(self) -> list[int]:
        """Return a device's rows of a step, halved again and again, in ascending order.

        Rounded up, as in `divide_step`: each fills its micro-batches about evenly.
        """
        halvings = range(self.rows_of_device.bit_length() + 1)
        return sorted({-(-self.rows_of_device // 2**count) for count in halvings})

    def tried_rows(self, candidate: int) -> int:
        """Return the rows with which a candidate is tried.

        In mini-batches there are two of them, or as many rows as the device has of a step.
        """
        return min(2 * candidate, self.rows_of_device) if self.in_mini_batches else candidate

    def mini_batch_size(self, candidate: int) -> int:
        """Return the rows of a mini-batch, 0 if the batch isn't divided."""
        return candidate if self.in_mini_batches and candidate < self.rows_of_device else 0


def find_batch_size(
    search: BatchSearch,
    probe: BatchProbe,
    *,
    on_candidate: Callable[[int, int], None] = lambda index, count: None,
    clock: Callable[[], float] = time.monotonic,
) -> BatchSizeResult:
    """Try candidates and return the smallest that is as fast as the fastest, within `TOLERANCE`.

    Smaller candidates take less memory. Memory is tried with the longest rows, and only if the
    candidate before says that the next one fits: on a CPU, the system would end the process. The
    search ends when a candidate doesn't fit, or two in a row are no faster.

    Args:
        search: What is searched for.
        probe: Tries batches.
        on_candidate: Called with a candidate's index and the number of candidates.
        clock: Returns seconds.

    Raises:
        ConfigError: Not even one row fits into memory.
    """
    started = clock()
    memory = _MemoryModel(search, probe)

    # Single rows, shorter than the longest, are a safe way to the first candidate.
    for share in _FOOTHOLDS:
        memory.try_row(share)

    candidates = search.candidates()
    queue = list(candidates)
    measured: list[MeasuredBatch] = []
    slower_in_a_row, fastest = 0, 0.0
    while queue:
        candidate = queue.pop(0)
        on_candidate(candidates.index(candidate), len(candidates))
        batch = _measure(search, probe, memory, candidate)
        measured.append(batch)
        if not batch.fits:
            break

        # Noise of the measurement must not keep the search going.
        is_faster = batch.tokens_per_second > fastest * (1.0 + TOLERANCE)
        slower_in_a_row = 0 if is_faster else slower_in_a_row + 1
        fastest = max(fastest, batch.tokens_per_second)
        elapsed = clock() - started
        if slower_in_a_row >= _PATIENCE or elapsed >= search.seconds:
            queue = _last_candidate(search, probe, queue, fastest)

    chosen = _choose(search, measured)
    result = divide_step(
        search.rows,
        chosen.rows,
        in_mini_batches=search.in_mini_batches,
        devices=search.devices,
    )
    return replace(result, measured=tuple(measured))


class _MemoryModel:
    """Predicts the memory of a batch from the batch that was tried last."""

    def __init__(self, search: BatchSearch, probe: BatchProbe) -> None:
        self.search = search
        self.probe = probe
        self.lengths = np.asarray(probe.lengths)
        self.longest_first = np.argsort(-self.lengths, kind="stable")
        self._bytes_per_token = 0.0

    def try_row(self, share: float) -> None:
        """Try a row of about this share of the longest row's tokens, if it is sure to fit."""
        length = share * self.lengths[self.longest_first[0]]
        row = int(np.abs(self.lengths - length).argmin())
        rows, mini_batch_size = ([row, row], 1) if self.search.in_mini_batches else ([row], 0)
        if self.predict(rows, mini_batch_size) <= self.search.limit_bytes:
            self.measure(rows, mini_batch_size)

    def longest(self, count: int) -> list[int]:
        """Return the longest rows."""
        rows: list[int] = self.longest_first[:count].tolist()
        return rows

    def predict(self, rows: Sequence[int], mini_batch_size: int) -> int:
        """Return the bytes that rows will take: activations grow with the tokens at once."""
        activations = int(self._bytes_per_token * self._tokens_at_once(rows, mini_batch_size))
        return self.search.fixed_bytes + activations

    def measure(self, rows: Sequence[int], mini_batch_size: int) -> int | None:
        """Return the bytes that rows took; None if the memory was full."""
        activations = self.probe.memory(rows, mini_batch_size)
        if activations is None:
            return None

        self._bytes_per_token = activations / self._tokens_at_once(rows, mini_batch_size)
        return self.search.fixed_bytes + activations

    def _tokens_at_once(self, rows: Sequence[int], mini_batch_size: int) -> int:
        return int(self.lengths[list(rows[: mini_batch_size or None])].sum())


def _measure(
    search: BatchSearch, probe: BatchProbe, memory: _MemoryModel, candidate: int
) -> MeasuredBatch:
    """Return the memory and the speed of a candidate; one that can't fit isn't tried."""
    rows = memory.longest(search.tried_rows(candidate))
    mini_batch_size = search.mini_batch_size(candidate)

    memory_bytes = memory.predict(rows, mini_batch_size)
    # What is predicted not to fit isn't tried: on a CPU the system would end the process.
    fits = memory_bytes <= search.limit_bytes
    if fits:
        taken = memory.measure(rows, mini_batch_size)
        fits = taken is not None and taken <= search.limit_bytes
        memory_bytes = memory_bytes if taken is None else taken

    tokens_per_second = 0.0
    if fits:
        # Memory depends on the longest rows, speed on typical ones.
        typical = typical_rows(probe.lengths, len(rows), by_length=search.by_length)
        tokens_per_second = probe.speed(typical, mini_batch_size)
    return MeasuredBatch(
        rows=candidate, tokens_per_second=tokens_per_second, memory_bytes=memory_bytes, fits=fits
    )


def _last_candidate(
    search: BatchSearch, probe: BatchProbe, queue: list[int], tokens_per_second: float
) -> list[int]:
    """Return what is still worth a try after larger mini-batches were no faster.

    That is the whole batch, which needs no second forward pass, unless it takes too long.
    """
    seconds = search.rows_of_device * float(np.mean(probe.lengths)) / tokens_per_second
    return queue[-1:] if search.in_mini_batches and seconds < search.seconds else []


def _choose(search: BatchSearch, measured: Sequence[MeasuredBatch]) -> MeasuredBatch:
    fitting = [batch for batch in measured if batch.fits]
    if not fitting:
        raise ConfigError(
            "training.batch_size must leave room for one row, got 'auto' while one row with its "
            f"gradients and the optimizer's state takes {measured[0].memory_bytes / _GIB:.2f} GiB "
            f"and {search.limit_bytes / _GIB:.2f} GiB may be taken ({USABLE_SHARE:.0%} of what is "
            "free). Lower max_length, set training.memory.gradient_checkpointing=true, or train an "
            "adapter instead of all weights."
        )

    fastest = max(batch.tokens_per_second for batch in fitting)
    fast = [batch for batch in fitting if batch.tokens_per_second >= (1.0 - TOLERANCE) * fastest]

    # The whole batch is simpler than any mini-batches that are no faster.
    whole_batch_is_fast = search.in_mini_batches and fast[-1].rows == search.rows_of_device
    return fast[-1] if whole_batch_is_fast else fast[0]


def divide_step(
    rows: int, rows_at_once: int, *, in_mini_batches: bool, devices: int = 1
) -> BatchSizeResult:
    """Return how a step of `rows` goes through the model `rows_at_once` at a time on each device.

    Args:
        rows: Rows of a step, over all devices.
        rows_at_once: Rows that go through the model of a device at once.
        in_mini_batches: Whether a step stays one batch.
        devices: Number of devices that share a micro-batch.
    """
    if in_mini_batches:
        is_cut = rows_at_once < -(-rows // devices)
        mini_batch_size = rows_at_once if is_cut else 0
        return BatchSizeResult(
            batch_size=rows, accumulate=1, mini_batch_size=mini_batch_size, devices=devices
        )

    accumulate = -(-rows // (rows_at_once * devices))
    # As few as make up the step: the devices needn't all be full.
    batch_size = -(-rows // accumulate)
    return BatchSizeResult(batch_size=batch_size, accumulate=accumulate, devices=devices)


def typical_rows(lengths: Sequence[int], count: int, *, by_length: bool) -> list[int]:
    """Return the rows of a typical batch.

    They have all lengths, or lengths about the median if rows of similar length share a batch.

    Args:
        lengths: Tokens of each row.
        count: Number of rows, at most as many as there are.
        by_length: Whether rows of similar length share a batch.
    """
    shortest_first = np.argsort(np.asarray(lengths), kind="stable")
    if by_length:
        start = (len(shortest_first) - count) // 2
        rows = shortest_first[start : start + count]
    else:
        # The middles of `count` equal shares of the rows.
        middles = (np.arange(count) + 0.5) * len(shortest_first) / count
        rows = shortest_first[middles.astype(int)]
    chosen: list[int] = rows.tolist()
    return chosen
