"""Which rows go into which batch: like lengths together, equal texts apart; only seed and epoch decide the order.

Knows numbers only: no rows, no text, no tensors.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

WINDOW_BATCHES = 8
"""Rows are sorted by length within a shuffled window of this many batches: little padding, and still random company."""
SEARCHED_BATCHES = 256
"""How many other batches are tried for a row that clashes with its own: the last few among many repeated texts."""


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
        total_length: Above 0, batches are cut where their rows' lengths add up to about this, instead of by rows; their
            number is the same in every epoch.
        by_length: Rows of like length share a batch; where nothing is padded, a random order is as fast and fairer.
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
        total_length: int = 0,
        by_length: bool = True,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.keys = keys
        self.labels = labels
        self.shuffle = shuffle
        self.drop_single = drop_single
        self.by_length = by_length
        self.epoch = 0
        longest = int(self.lengths.max(initial=1))
        # a batch gets the rows whose middle lies in its share: with shares no shorter than a row, none is empty
        self._shares = (
            max(int(self.lengths.sum()) // max(total_length, longest), 1) if total_length else 0
        )

    @property
    def companies(self) -> list[list[int]]:
        """The rows that may share a batch: all of them."""
        return [list(range(len(self.lengths)))]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order `__iter__` gives; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self._shares:
            return min(self._shares, len(self.lengths))
        full, rest = divmod(len(self.lengths), self.batch_size)
        return full + (rest > (1 if self.drop_single and full else 0))

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = self._order(generator)
        batches = self._separated(order) if self.keys else self._sliced(order)
        batches = batches[: len(self)]
        if self.shuffle:
            generator.shuffle(batches)
        return iter(batches)

    def _order(self, generator: np.random.Generator) -> list[int]:
        rows = np.arange(len(self.lengths))
        if not self.shuffle:
            return self._labels_in_twos(rows, generator) if self.labels else rows.tolist()
        generator.shuffle(rows)
        if self.labels:
            return self._labels_in_twos(rows, generator)
        if not self.by_length:
            return [int(row) for row in rows]
        window = self.batch_size * WINDOW_BATCHES
        windows = [rows[start : start + window] for start in range(0, len(rows), window)]
        return [
            int(row)
            for part in windows
            for row in part[np.argsort(-self.lengths[part], kind="stable")]
        ]

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
            generator.shuffle(twos)
        alone = list(waiting.values())
        order: list[int] = []
        for two in twos:
            if (
                alone and len(order) % self.batch_size == self.batch_size - 1
            ):  # one place left: no two is torn apart
                order.append(alone.pop())
            order += two
        return order + alone

    def _sliced(self, order: list[int]) -> list[list[int]]:
        if self._shares and order:
            ends = np.cumsum(self.lengths[order])
            middles = ends - self.lengths[order] / 2
            cuts = np.searchsorted(middles, np.arange(1, self._shares) * (ends[-1] / self._shares))
            return [part.tolist() for part in np.split(np.asarray(order), cuts)]
        return [
            order[start : start + self.batch_size]
            for start in range(0, len(order), self.batch_size)
        ]

    def _separated(self, order: list[int]) -> list[list[int]]:
        """Put each row into the first open batch behind all batches that hold one of its keys; place the rest last."""
        assert self.keys is not None
        sizes = [len(batch) for batch in self._sliced(order)]
        batches: list[list[int]] = [[] for _ in sizes]
        used: list[set[Hashable]] = [set() for _ in sizes]
        later = list(
            range(len(sizes) + 1)
        )  # per batch the next one with room, itself if it has; found by path halving
        next_batch: dict[Hashable, int] = {}
        left_over = []
        for row in order:
            number = max((next_batch.get(key, 0) for key in self.keys[row]), default=0)
            while later[number] != number:
                later[number] = later[later[number]]
                number = later[number]
            if number == len(sizes):
                left_over.append(row)
                continue
            batches[number].append(row)
            used[number] |= self.keys[row]
            next_batch.update(dict.fromkeys(self.keys[row], number + 1))
            if len(batches[number]) == sizes[number]:
                later[number] = number + 1
        self._place(left_over, batches, used, sizes)
        return batches

    def _place(
        self, rows: list[int], batches: list[list[int]], used: list[set[Hashable]], sizes: list[int]
    ) -> None:
        """Fill the gaps with `rows`; one that clashes there changes places with a row of a near batch if that helps."""
        assert self.keys is not None
        gaps = [
            number for number, size in enumerate(sizes) for _ in range(size - len(batches[number]))
        ]
        counts = Counter(key for row in rows for key in self.keys[row])
        crowded = {key for key, count in counts.items() if count > len(sizes)}
        for row in rows:
            if self.keys[row] & crowded:  # more rows than batches: nothing to search for
                batches[gaps.pop()].append(row)
                continue
            nearest = range(max(len(gaps) - SEARCHED_BATCHES, 0), len(gaps))
            free = next(
                (gap for gap in reversed(nearest) if not self.keys[row] & used[gaps[gap]]),
                len(gaps) - 1,
            )
            number = gaps.pop(free)
            if self.keys[row] & used[number]:
                row = self._exchanged(row, number, batches, used)
            batches[number].append(row)
            used[number] |= self.keys[row]

    def _exchanged(
        self, row: int, number: int, batches: list[list[int]], used: list[set[Hashable]]
    ) -> int:
        """Put `row` into a batch near `number` that lacks its keys; return the row that fits into `number` instead."""
        assert self.keys is not None
        for distance in range(1, min(len(batches), SEARCHED_BATCHES)):
            other = (number - distance) % len(batches)
            if self.keys[row] & used[other]:
                continue
            for position, candidate in enumerate(batches[other]):
                if not self.keys[candidate] & used[number]:
                    batches[other][position] = row
                    used[other] = set().union(*(self.keys[each] for each in batches[other]))
                    return candidate
        return row


class MergedBatchSampler(Sampler[list[int]]):
    """The batches of several samplers in one order that seed and epoch decide; each batch has rows of one of them.

    Args:
        parts: For each sampler the numbers that its rows have among all rows.
        seed: With the epoch, decides the order.
        shuffle: False keeps the samplers' batches one after the other.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Sequence[int], SeededBatchSampler]],
        *,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.parts = parts
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.by_length = any(sampler.by_length for _, sampler in parts)
        self.lengths = np.zeros(sum(len(rows) for rows, _ in parts), dtype=np.int64)
        for rows, sampler in parts:
            self.lengths[list(rows)] = sampler.lengths

    @property
    def companies(self) -> list[list[int]]:
        """The rows that may share a batch, sampler by sampler."""
        return [list(rows) for rows, _ in self.parts]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order `__iter__` gives."""
        self.epoch = epoch
        for _, sampler in self.parts:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(len(sampler) for _, sampler in self.parts)

    def __iter__(self) -> Iterator[list[int]]:
        batches = [
            [rows[row] for row in batch] for rows, sampler in self.parts for batch in sampler
        ]
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(batches)
        return iter(batches)


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return batches of row numbers, long rows first: for scoring, where the order doesn't matter."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist()
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
