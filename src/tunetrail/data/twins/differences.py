"""Tells rows that say the same in nearly the same words from rows that only look like it.

Most words of two rows may be equal, and yet one asks another question, or names another name.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tunetrail.data.twins.boilerplate import TextWords
from tunetrail.data.twins.gaps import Mask
from tunetrail.data.twins.shingles import Hashes, Integers, Ragged, combined, mixed, ragged, spans

_PAIRS_AT_ONCE = 1 << 12
# One or two other words may be a slip of the pen; three in one place are another content.
_REPLACED_WORDS = 3


@dataclass(frozen=True, kw_only=True)
class _Difference:
    """Where two texts differ, for each pair.

    Attributes:
        before: Number of equal words before the first difference.
        after: Number of equal words after the last one.
        older: Number of words from the first to the last difference in the older text.
        newer: The same in the newer text.
        common: Number of different words that both of these stretches have.
        positions: A hash of the positions at which the words differ, if both texts are of equal
            length; otherwise of the stretch.
    """

    before: Integers
    after: Integers
    older: Integers
    newer: Integers
    common: Integers
    positions: Hashes

    @property
    def is_replaced(self) -> Mask:
        """Whether words were replaced, and not only added or left out."""
        return np.minimum(self.older, self.newer) > 0


def say_something_else(words: TextWords, older: Integers, newer: Integers) -> Mask:
    """Tell for each pair of similar rows whether the newer one says something else, [pairs].

    It does in three cases: a stretch of at least three words is replaced by other words (another
    question about the same document); words at the same places differ in another row that is
    similar to the same older row (a list of names); words are replaced in two texts of the row (in
    the question and in its answer).

    Args:
        words: The words of all texts.
        older: Texts of the older row of each pair, -1 for none, [pairs, texts].
        newer: Texts of the newer row, [pairs, texts].
    """
    says_else = np.zeros(len(older), dtype=bool)
    replaced_texts = np.zeros(len(older), dtype=np.int64)
    for column in range(older.shape[1]):
        left, right = older[:, column], newer[:, column]
        pairs = np.flatnonzero((left >= 0) & (right >= 0) & (left != right))
        if not len(pairs):
            continue
        difference = _differences(words, left[pairs], right[pairs])
        shorter = np.minimum(difference.older, difference.newer)
        is_other = (shorter >= _REPLACED_WORDS) & (2 * difference.common <= shorter)

        places = np.column_stack((left[pairs].astype(np.uint64), difference.positions))
        _, same_as, rows = np.unique(combined(places), return_inverse=True, return_counts=True)
        is_listed = difference.is_replaced & (rows[same_as] > 1)

        says_else[pairs] |= is_other | is_listed
        replaced_texts[pairs] += difference.is_replaced
    return says_else | (replaced_texts > 1)


def _differences(words: TextWords, older: Integers, newer: Integers) -> _Difference:
    blocks = []
    for start in range(0, len(older), _PAIRS_AT_ONCE):
        block = slice(start, start + _PAIRS_AT_ONCE)
        blocks.append(_differences_of_block(words.of(older[block]), words.of(newer[block])))

    joined = {}
    for name in _Difference.__dataclass_fields__:
        joined[name] = np.concatenate([getattr(block, name) for block in blocks])
    return _Difference(**joined)


def _differences_of_block(older: Ragged, newer: Ragged) -> _Difference:
    """Return by which words pairs of texts differ, between what both begin and end with."""
    shorter = np.minimum(older.counts, newer.counts)
    starts = np.cumsum(shorter) - shorter
    rank = np.arange(int(shorter.sum())) - np.repeat(starts, shorter)

    # From the beginnings of both texts, then from their ends.
    differs = (
        older.values[spans(older.starts[:-1], shorter)]
        != newer.values[spans(newer.starts[:-1], shorter)]
    )
    before = np.minimum.reduceat(np.where(differs, rank, np.repeat(shorter, shorter)), starts)
    differs_from_end = (
        older.values[spans(older.starts[1:] - shorter, shorter)]
        != newer.values[spans(newer.starts[1:] - shorter, shorter)]
    )
    last = np.maximum.reduceat(np.where(differs_from_end, rank, -1), starts)
    after = np.minimum(shorter - 1 - last, shorter - before)

    at = np.add.reduceat(np.where(differs, mixed(rank.astype(np.uint64) + np.uint64(1)), 0), starts)
    stretch = combined(np.column_stack((before, after)).astype(np.uint64))
    positions = np.where(older.counts == newer.counts, at, stretch)
    older_count, newer_count = older.counts - before - after, newer.counts - before - after
    return _Difference(
        before=before,
        after=after,
        older=older_count,
        newer=newer_count,
        common=_common_words(
            ragged(older.values[spans(older.starts[:-1] + before, older_count)], older_count),
            ragged(newer.values[spans(newer.starts[:-1] + before, newer_count)], newer_count),
        ),
        positions=positions,
    )


def _common_words(first: Ragged, second: Ragged) -> npt.NDArray[np.int64]:
    """Return the number of different words that both texts of each pair have."""
    keys_of_texts: list[Hashes] = []
    for words in (first, second):
        pair = np.repeat(np.arange(len(words.counts), dtype=np.uint64), words.counts)
        keys_of_texts.append(np.unique((pair << np.uint64(32)) | words.values))
    first_keys, second_keys = keys_of_texts
    common = np.intersect1d(first_keys, second_keys, assume_unique=True) >> np.uint64(32)
    return np.bincount(common.astype(np.int64), minlength=len(first.counts))
