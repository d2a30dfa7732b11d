"""Which rows go into which batch: rows of like length together, equal texts apart, in an order that only seed and epoch decide.

Knows numbers only: no rows, no text, no tensors.
"""

from collections import deque
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

WINDOW_BATCHES = 8
"""Rows are sorted by length within a shuffled window of this many batches: little padding, and still random company."""


class SeededBatchSampler(Sampler[list[int]]):
    """Batches of row numbers for one epoch; the order is a pure function of (seed, epoch).

    Args:
        lengths: Tokens per row; rows of like length share a batch.
        batch_size: Rows per batch; the last batch may be smaller.
        seed: With the epoch, decides the order.
        keys: What two rows of one batch should not share (the texts of a pair, say); kept apart wherever rows suffice.
        labels: Rows of one label are drawn in twos, so that each finds a partner in its batch.
        shuffle: False keeps the rows' order (validation).
        drop_single: Leave out a last batch of one row, from which a contrastive loss learns nothing.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        *,
        seed: int = 0,
        keys: Sequence[frozenset[Hashable]] | None = None,
        labels: Sequence[str] | None = None,
        shuffle: bool = True,
        drop_single: bool = False,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.keys = keys
        self.labels = labels
        self.shuffle = shuffle
        self.drop_single = drop_single
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order `__iter__` gives; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full + (rest > (1 if self.drop_single and full else 0))

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = self._order(generator)
        batches = self._separated(order) if self.keys else self._sliced(order)
        batches = batches[: len(self)]
        if self.shuffle:
            generator.shuffle(batches)  # type: ignore[arg-type]
        return iter(batches)

    def _order(self, generator: np.random.Generator) -> list[int]:
        rows = np.arange(len(self.lengths))
        if not self.shuffle:
            return self._labels_in_twos(rows, generator) if self.labels else rows.tolist()
        generator.shuffle(rows)
        if self.labels:
            return self._labels_in_twos(rows, generator)
        window = self.batch_size * WINDOW_BATCHES
        windows = [rows[start : start + window] for start in range(0, len(rows), window)]
        return [int(row) for part in windows for row in part[np.argsort(-self.lengths[part], kind="stable")]]

    def _labels_in_twos(self, rows: np.ndarray, generator: np.random.Generator) -> list[int]:
        assert self.labels is not None
        waiting: dict[str, int] = {}
        twos: list[list[int]] = []
        for row in rows.tolist():
            partner = waiting.pop(self.labels[row], None)
            if partner is None:
                waiting[self.labels[row]] = row
            else:
                twos.append([partner, row])
        if self.shuffle:
            generator.shuffle(twos)  # type: ignore[arg-type]
        return [row for two in twos for row in two] + list(waiting.values())

    def _sliced(self, order: list[int]) -> list[list[int]]:
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def _separated(self, order: list[int]) -> list[list[int]]:
        """Fill each batch with the next rows that share no key with it; take a clashing row only when no other is left."""
        assert self.keys is not None
        batches: list[list[int]] = []
        waiting: deque[int] = deque()
        fresh = deque(order)
        while fresh or waiting:
            batch: list[int] = []
            used: set[Hashable] = set()
            clashing: list[int] = []
            while len(batch) < self.batch_size and (waiting or fresh):
                row = waiting.popleft() if waiting else fresh.popleft()
                if self.keys[row] & used:
                    clashing.append(row)
                else:
                    batch.append(row)
                    used |= self.keys[row]
            missing = self.batch_size - len(batch)
            batches.append(batch + clashing[:missing])
            waiting.extendleft(reversed(clashing[missing:]))
        return batches
