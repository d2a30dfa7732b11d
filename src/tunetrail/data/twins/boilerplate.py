"""Finds what many texts of a session share, so that rows are compared by what is their own.

An instruction, a list of choices or a signature that is in every row says nothing of a row. With
it, though, all rows would look nearly equal. Boilerplate is found in the stored words of all texts;
it depends neither on the order of the rows nor on the chunks.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tunetrail.data.twins.gaps import FEWEST_TEXTS, CoveredWords, Mask, Slots, shingle_buckets
from tunetrail.data.twins.shingles import (
    Hashes,
    Integers,
    Ragged,
    mixed,
    ragged,
    spaced,
    spans,
)

# Shares of the rows that must have a shingle in common, tried one after the other.
#
# A text is stripped at the highest level that does it. At the lowest one, an instruction of 45
# words would take phrases of the messages with it that a dozen rows have in common.
_LEVELS = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
# Eight words with a gap are a short form, which `TextIndex.one_word_pairs` takes care of.
_FEWEST_WORDS = 9
# Two texts that share less than this of their words aren't similar for that reason alone.
_STRIPPED_SHARE = 0.5
# Up to this share, a stripped text is compared as a whole, too.
#
# Its near-duplicate may have a little less boilerplate than `_STRIPPED_SHARE`.
_WHOLE_SHARE = 0.75

# Shingles are counted by the first bits of their hashes, 32 buckets for each word or 4 million.
_MOST_BITS = 22
_BITS_ABOVE_WORDS = 5
_WORDS_AT_ONCE = 1 << 19
# Words are looked up by the upper bits of their hashes.
_WORD_BITS = 20

# From more texts than this, boilerplate is learnt from a sample: the texts with the lowest hashes.
#
# Of 20,000 texts, 200 are expected to have a shingle that 1 % of all texts have. That fewer than
# half of these have it happens once in 2e13 cases (Chernoff bound). The limits hold for the sample,
# so a shingle of just about 1 % may fall on either side of the lowest one.
_SAMPLED_TEXTS = 20_000


Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class TextWords:
    """The words of distinct texts: text `i` has `values[starts[i] : starts[i] + counts[i]]`."""

    values: npt.NDArray[np.uint32]
    starts: Integers
    counts: Integers

    def of(self, texts: Integers) -> Ragged:
        """Return the words of some texts, in their order."""
        counts = self.counts[texts]
        words = self.values[spans(self.starts[texts], counts)]
        return ragged(words.astype(np.uint64), counts)

    def blocks(self, texts: Integers) -> Iterator[Integers]:
        """Yield the texts in blocks of a bounded number of words."""
        block = np.cumsum(self.counts[texts]) // _WORDS_AT_ONCE
        yield from np.split(texts, np.flatnonzero(np.diff(block)) + 1)


class OwnText(NamedTuple):
    """A text without its boilerplate.

    Attributes:
        text: The words that are its own.
        form: A hash of the boilerplate.
        is_mixed: Whether so much is its own that the whole text has to be compared as well.
    """

    text: str
    form: int
    is_mixed: bool


@dataclass(frozen=True, kw_only=True)
class _StrippedTexts:
    """Texts by number, with the values of `OwnText` and the positions of their own words."""

    numbers: Integers
    forms: Hashes
    is_mixed: Mask
    own: Ragged


class Boilerplate:
    """The texts that have boilerplate, and the words that are their own."""

    def __init__(self, keys: Hashes, stripped: Sequence[_StrippedTexts]) -> None:
        """Take the hash of each distinct text, and the texts that are stripped."""
        self._stripped_of: dict[int, tuple[_StrippedTexts, int]] = {}
        for texts in stripped:
            for index, key in enumerate(keys[texts.numbers].tolist()):
                self._stripped_of[key] = (texts, index)

    def __contains__(self, key: int) -> bool:
        return key in self._stripped_of

    def own_text(self, text: str, key: int) -> OwnText | None:
        """Return what is a text's own, None if the text has no boilerplate.

        Args:
            text: A normalised text.
            key: Its hash.
        """
        if key not in self._stripped_of:
            return None
        stripped, index = self._stripped_of[key]
        words = spaced(text).split(" ")
        start, end = stripped.own.starts[index : index + 2]
        own_words = map(words.__getitem__, stripped.own.values[start:end].tolist())
        return OwnText(
            " ".join(own_words), int(stripped.forms[index]), bool(stripped.is_mixed[index])
        )


def find_boilerplate(
    keys: Hashes, words: TextWords, whole: Integers, texts: Integers
) -> Boilerplate | None:
    """Return the texts with boilerplate, None if there are none.

    A word belongs to the boilerplate if it lies in a run of at least two shingles of three words
    that many rows have in common. A text is stripped if at least 9 of its words, and half of them,
    are boilerplate, and if there is a place to fill in: a gap that most rows with the same words
    before it (or after it) have as well. Copies of one text that were edited here and there have
    words in common, too, but no such place, and are compared as they are.

    Args:
        keys: The hash of each distinct text.
        words: The words of each distinct text.
        whole: The texts of whole rows, in which shingles are counted.
        texts: The texts that rows are compared by.
    """
    whole = _sample(keys, whole)
    sample = np.union1d(whole, _sample(keys, texts))
    limits = [max(FEWEST_TEXTS, math.ceil(level * len(whole))) for level in _LEVELS]
    # In small sessions, the lower levels are all the same.
    limits = sorted(set(limits), reverse=True)
    rows_with, sample = _rows_with_shingles(words, whole, sample, limits[-1])
    remaining = _strippable(words, texts, sample, rows_with >= limits[-1])

    stripped: list[_StrippedTexts] = []
    for limit in limits:
        is_common = rows_with >= limit
        if not len(remaining) or not is_common.any():
            continue
        # What is usual is learnt first, and then what of each text is its own.
        slots = Slots()
        for block in words.blocks(sample):
            slots.count(CoveredWords.of(words.of(block), is_common))
        is_left = np.ones(len(words.counts), dtype=bool)
        for block in words.blocks(remaining):
            stripped.append(_strip(block, CoveredWords.of(words.of(block), is_common), slots))
            is_left[stripped[-1].numbers] = False
        remaining, sample = remaining[is_left[remaining]], sample[is_left[sample]]

    return Boilerplate(keys, stripped) if any(len(texts.numbers) for texts in stripped) else None


def _sample(keys: Hashes, texts: Integers) -> Integers:
    """Return the texts with the lowest hashes, whose choice depends on no order."""
    if len(texts) <= _SAMPLED_TEXTS:
        return texts
    lowest = np.argpartition(keys[texts], _SAMPLED_TEXTS)[:_SAMPLED_TEXTS]
    return np.sort(texts[lowest])


def _strippable(words: TextWords, texts: Integers, sample: Integers, is_common: Mask) -> Integers:
    """Return the texts that may be stripped: enough of their words occur in boilerplate.

    Looking single words up is many times faster than computing shingles, and rules out nearly all
    texts of most sessions.
    """
    if not len(sample):
        return texts[:0]
    in_boilerplate = np.zeros(1 << _WORD_BITS, dtype=bool)
    for block in words.blocks(sample):
        covered = CoveredWords.of(words.of(block), is_common)
        in_boilerplate[_word_buckets(covered.words)[covered.is_covered]] = True

    strippable = []
    for block in words.blocks(texts):
        block_words = words.of(block)
        # A text without words has none to look up, so sums are differences of a running total.
        total = np.append(0, np.cumsum(in_boilerplate[_word_buckets(block_words)]))
        is_strippable = _is_mostly_boilerplate(np.diff(total[block_words.starts]), block_words)
        strippable.append(block[is_strippable])
    return np.concatenate(strippable)


def _word_buckets(words: Ragged) -> Integers:
    """Return the bucket of each word."""
    # Stored words are the upper halves of hashes, 32 bits.
    return (words.values >> np.uint64(32 - _WORD_BITS)).astype(np.int64)


def _is_mostly_boilerplate(boilerplate: Counts, words: Ragged) -> Mask:
    """Tell whether texts have enough words of boilerplate to be stripped of them."""
    fewest = np.maximum(_FEWEST_WORDS, _STRIPPED_SHARE * words.counts)
    return np.asarray(boilerplate >= fewest, dtype=bool)


def _rows_with_shingles(
    words: TextWords, whole: Integers, texts: Integers, limit: int
) -> tuple[Counts, Integers]:
    """Count the whole texts that have a shingle, by bucket.

    Returns:
        The counts of shingles that may reach the limit, and the texts with enough of these.
    """
    bits = _bucket_bits(words, whole)
    rows_with = np.zeros(1 << bits, dtype=np.int64)
    if len(whole) < limit:
        return rows_with, texts[:0]

    # Occurrences are counted first, because only few shingles come into question after that.
    occurrences = np.zeros(1 << bits, dtype=np.int32)
    for block in words.blocks(whole):
        # A 1 of another type than the table's would make this 20 times as slow.
        np.add.at(occurrences, shingle_buckets(words.of(block), bits)[0], np.int32(1))
    may_be_common = occurrences >= limit
    if not may_be_common.any():
        return rows_with, texts[:0]

    is_whole = np.zeros(len(words.counts), dtype=bool)
    is_whole[whole] = True
    candidates = []
    for block in words.blocks(texts):
        buckets, text = shingle_buckets(words.of(block), bits)
        likely = may_be_common[buckets]
        buckets, text = buckets[likely], text[likely]
        # Nine words are seven shingles in one run, and fewer in several.
        enough = np.bincount(text, minlength=len(block)) >= _FEWEST_WORDS // 2
        candidates.append(block[enough])

        # A text counts once, however often it repeats itself.
        counts = is_whole[block[text]]
        distinct = np.unique((text[counts] << bits) | buckets[counts])
        np.add.at(rows_with, distinct & ((1 << bits) - 1), 1)
    return rows_with, np.concatenate(candidates)


def _bucket_bits(words: TextWords, texts: Integers) -> int:
    """Return the number of bits that name the buckets for the shingles of some texts."""
    total_words = int(words.counts[texts].sum())
    return min(_MOST_BITS, total_words.bit_length() + _BITS_ABOVE_WORDS)


def _strip(texts: Integers, covered: CoveredWords, slots: Slots) -> _StrippedTexts:
    """Return the texts of a block that are stripped."""
    words, starts = covered.words, covered.words.starts[:-1]
    in_slot, is_edited = slots.words_in_slots(covered)
    boilerplate = np.bincount(covered.text[covered.is_covered], minlength=len(texts))
    own = np.bincount(covered.text[in_slot], minlength=len(texts))
    is_stripped = _is_mostly_boilerplate(boilerplate, words) & (own > 0)

    # A form is its words in their order, with the places that are filled in.
    rank = np.cumsum(covered.is_covered).astype(np.uint64)
    rank -= np.repeat(rank[starts] - covered.is_covered[starts], words.counts)
    in_form = covered.is_covered | is_edited
    marks = np.where(in_form, words.values, np.uint64(1))
    values = mixed(marks + rank * np.uint64(0x9E3779B97F4A7C15))
    values[~(in_form | (in_slot & covered.begins_gap()))] = 0
    forms = np.add.reduceat(values, starts)

    position = np.arange(len(words.values)) - np.repeat(starts, words.counts)
    is_own = in_slot & is_stripped[covered.text]
    is_mixed = boilerplate <= _WHOLE_SHARE * words.counts
    return _StrippedTexts(
        numbers=texts[is_stripped],
        forms=forms[is_stripped],
        is_mixed=is_mixed[is_stripped],
        own=ragged(position[is_own], own[is_stripped]),
    )
