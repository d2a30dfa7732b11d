"""Decide which rows share a batch: similar lengths together, equal texts apart.

Knows row indices only: no text, no tensors. The order depends on nothing but seed and epoch.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

WINDOW_BATCHES = 8
"""Rows are sorted by length within a shuffled window of this many batches.

That leaves little padding, and rows still share a batch with ever different rows.
"""
SEARCHED_BATCHES = 256
"""Number of batches that are tried for a row that clashes with its batch.

Only the last few rows of data with many repeated texts need it.
"""


class SeededBatchSampler(Sampler[list[int]]):
    """Gives the batches of one epoch as row indices; the order is a pure function of (seed, epoch).

    Args:
        lengths: Tokens of each row.
        batch_size: Rows per batch; the last batch may be smaller.
        seed: Decides the order, together with the epoch.
        keys: What two rows of one batch should not share (the texts of a pair, say), for each row;
            kept apart wherever there are enough rows.
        labels: The label of each row; rows are drawn in twos of one label, so that each has a
            partner in its batch.
        shuffle: False keeps the rows' order (validation).
        drop_single: Leave out a last batch of one row: a contrastive loss learns nothing from it.
        total_length: Above 0, batches are cut where their rows' lengths add up to about this,
            instead of by rows; their number is the same in every epoch.
        by_length: Whether rows of similar length share a batch; without padding, a random order is
            as fast and fairer.
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

        # A batch gets the rows whose middle lies in its share of the total length. Shares are no
        # shorter than a row, so none of them is empty.
        share = max(total_length, int(self.lengths.max(initial=1)))
        self._shares = max(int(self.lengths.sum()) // share, 1) if total_length else 0

    @property
    def row_groups(self) -> list[list[int]]:
        """The rows that may share a batch: all of them."""
        return [list(range(len(self.lengths)))]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order `__iter__` gives; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self._shares:
            return min(self._shares, len(self.lengths))

        full_batches, last_rows = divmod(len(self.lengths), self.batch_size)
        least_rows = 2 if self.drop_single and full_batches else 1
        return full_batches + (last_rows >= least_rows)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator of its own: the global ones belong to dropout and augmentation.
        generator = np.random.default_rng((self.seed, self.epoch))
        order = self._order(generator)
        if self.keys:
            sizes = list(map(len, self._slice(order)))
            batches = _KeyedBatches(self.keys, sizes).fill(order)
        else:
            batches = self._slice(order)

        # Without the last batch, if it has a single row that teaches nothing.
        batches = batches[: len(self)]
        if self.shuffle:
            generator.shuffle(batches)
        return iter(batches)

    def _order(self, generator: np.random.Generator) -> list[int]:
        rows = np.arange(len(self.lengths))
        if self.shuffle:
            generator.shuffle(rows)
        if self.labels:
            return self._pair_labels(rows.tolist(), self.labels, generator)
        if not self.shuffle or not self.by_length:
            return rows.tolist()

        window_rows = self.batch_size * WINDOW_BATCHES
        order: list[int] = []
        for start in range(0, len(rows), window_rows):
            window = rows[start : start + window_rows]
            longest_first = np.argsort(-self.lengths[window], kind="stable")
            order += window[longest_first].tolist()
        return order

    def _pair_labels(
        self, rows: list[int], labels: Sequence[str], generator: np.random.Generator
    ) -> list[int]:
        """Return the rows in twos of one label; rows without a partner fill gaps or come last."""
        single_by_label: dict[str, int] = {}
        twos: list[list[int]] = []
        for row in rows:
            partner = single_by_label.pop(labels[row], None)
            if partner is None:
                single_by_label[labels[row]] = row
            else:
                twos.append([partner, row])
        if self.shuffle:
            generator.shuffle(twos)

        singles = list(single_by_label.values())
        order: list[int] = []
        for two in twos:
            # A batch with room for one more row gets a single: no two is split over two batches.
            if singles and len(order) % self.batch_size == self.batch_size - 1:
                order.append(singles.pop())
            order += two
        return order + singles

    def _slice(self, order: list[int]) -> list[list[int]]:
        """Cut the rows into batches by number, or by total length."""
        if not self._shares or not order:
            return _in_batches(order, self.batch_size)

        ends = np.cumsum(self.lengths[order])
        # A row belongs to the share in which its middle lies.
        middles = ends - self.lengths[order] / 2
        share = ends[-1] / self._shares
        cuts = np.searchsorted(middles, np.arange(1, self._shares) * share)
        return [batch.tolist() for batch in np.split(np.asarray(order), cuts)]


class _KeyedBatches:
    """Batches that are filled with rows so that rows with a common key get into different ones.

    Args:
        keys: The keys of each row.
        sizes: Rows of each batch.
    """

    def __init__(self, keys: Sequence[frozenset[Hashable]], sizes: list[int]) -> None:
        self.keys = keys
        self.sizes = sizes
        self.batches: list[list[int]] = [[] for _ in sizes]
        self.used: list[set[Hashable]] = [set() for _ in sizes]

    def fill(self, order: list[int]) -> list[list[int]]:
        """Put each row into the first open batch after all batches that hold one of its keys."""
        # The next batch with room after each batch, by path halving; one with room is its own.
        open_batch = list(range(len(self.sizes) + 1))
        next_batch: dict[Hashable, int] = {}
        left_over: list[int] = []
        for row in order:
            batch = max((next_batch.get(key, 0) for key in self.keys[row]), default=0)
            while open_batch[batch] != batch:
                open_batch[batch] = open_batch[open_batch[batch]]
                batch = open_batch[batch]

            if batch == len(self.sizes):
                left_over.append(row)
                continue
            self._append(row, batch)
            next_batch.update(dict.fromkeys(self.keys[row], batch + 1))
            if len(self.batches[batch]) == self.sizes[batch]:
                open_batch[batch] = batch + 1

        self._fill_gaps(left_over)
        return self.batches

    def _append(self, row: int, batch: int) -> None:
        self.batches[batch].append(row)
        self.used[batch] |= self.keys[row]

    def _fill_gaps(self, rows: list[int]) -> None:
        """Fill the gaps with rows; a row that clashes is exchanged for one of a near batch."""
        gaps: list[int] = []
        for batch, size in enumerate(self.sizes):
            gaps += [batch] * (size - len(self.batches[batch]))

        counts = Counter(key for row in rows for key in self.keys[row])
        crowded = {key for key, count in counts.items() if count > len(self.sizes)}
        for row in rows:
            # Of a key with more rows than there are batches, some have to share one: don't search.
            if self.keys[row] & crowded:
                self.batches[gaps.pop()].append(row)
                continue

            batch = gaps.pop(self._free_gap(row, gaps))
            if self.keys[row] & self.used[batch]:
                row = self._exchange(row, batch)
            self._append(row, batch)

    def _free_gap(self, row: int, gaps: list[int]) -> int:
        """Return the index of the last gap whose batch has none of the row's keys, or the last."""
        first = max(len(gaps) - SEARCHED_BATCHES, 0)
        for index in range(len(gaps) - 1, first - 1, -1):
            if not self.keys[row] & self.used[gaps[index]]:
                return index
        return len(gaps) - 1

    def _exchange(self, row: int, batch: int) -> int:
        """Put a row into a batch near `batch` that lacks its keys; return the row it replaces."""
        # The nearest batches first: their rows have similar lengths.
        for distance in range(1, min(len(self.batches), SEARCHED_BATCHES)):
            near = (batch - distance) % len(self.batches)
            if self.keys[row] & self.used[near]:
                continue

            for position, candidate in enumerate(self.batches[near]):
                if not self.keys[candidate] & self.used[batch]:
                    self.batches[near][position] = row
                    self.used[near] = set().union(*map(self.keys.__getitem__, self.batches[near]))
                    return candidate
        return row


class MergedBatchSampler(Sampler[list[int]]):
    """Gives the batches of several samplers in one order, which seed and epoch decide.

    Args:
        samplers: Each sampler, after the indices that its rows have among all rows.
        seed: Decides the order, together with the epoch.
        shuffle: False keeps the samplers' batches one after the other.
    """

    def __init__(
        self,
        samplers: Sequence[tuple[Sequence[int], SeededBatchSampler]],
        *,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.samplers = samplers
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.by_length = any(sampler.by_length for _, sampler in samplers)

        self.lengths = np.zeros(sum(len(rows) for rows, _ in samplers), dtype=np.int64)
        for rows, sampler in samplers:
            self.lengths[list(rows)] = sampler.lengths

    @property
    def row_groups(self) -> list[list[int]]:
        """The rows that may share a batch, sampler by sampler."""
        return [list(rows) for rows, _ in self.samplers]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order `__iter__` gives."""
        self.epoch = epoch
        for _, sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(len(sampler) for _, sampler in self.samplers)

    def __iter__(self) -> Iterator[list[int]]:
        batches: list[list[int]] = []
        for rows, sampler in self.samplers:
            for batch in sampler:
                batches.append([rows[row] for row in batch])

        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(batches)
        return iter(batches)


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Return batches of row indices, long rows first: for scoring, where the order is free."""
    # Long rows first: if they don't fit into memory, it shows at once.
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return _in_batches(order.tolist(), batch_size)


def _in_batches(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
