"""Turns texts into hashes of their shingles: parts that are equal have equal hashes.

Every hash follows from the text alone and is the same in every process, machine and chunk.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import rensa

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.signedinteger[Any]]

PERMUTATIONS = 128
"""Slots of a MinHash signature.

Each has 8 bits, so different shingles agree once in 256 times (Li and König 2010).
"""
LARGEST_SAMPLE = 1024
"""Shingle hashes stored for one text: all, or the smallest (bottom-k, Cohen and Kaspar 2007)."""
WHOLE = 255
"""The position of a one-word mask that leaves out no word."""

# Signatures with different seeds can't be compared.
_SEED = 42
_WORDS_PER_SHINGLE = 3
_CHARACTERS_PER_SHINGLE = 5
# Thai, Lao, Burmese, Khmer, Kana and Han are written without blanks between words.
_UNSPACED_LETTER = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])"
)
# n words need n + 1 masks, and one word hardly changes the shingles of a longer text.
_LONGEST_MASKED = 64


def _multipliers(count: int) -> Hashes:
    """Return odd pseudo-random numbers of 64 bits, [count]."""
    digests = (hashlib.blake2b(b"%d" % index, digest_size=8).digest() for index in range(count))
    # Multiplying by an odd number is reversible modulo 2**64, so no bits are lost.
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64) | np.uint64(1)


_MULTIPLIERS = _multipliers(_LONGEST_MASKED + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """One run of values per text: text `i` has `values[starts[i] : starts[i + 1]]`."""

    values: npt.NDArray[Any]
    starts: Integers

    @property
    def counts(self) -> Integers:
        """Number of values of each text."""
        return np.diff(self.starts)

    def of(self, texts: Integers) -> "Ragged":
        """Return the runs of these texts only, in their order."""
        counts = self.counts[texts]
        return ragged(self.values[spans(self.starts[texts], counts)], counts)


def ragged(values: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Ragged:
    """Return runs from values that lie text by text and the number of values of each text."""
    return Ragged(values=values, starts=np.concatenate(([0], np.cumsum(counts, dtype=np.int64))))


def spans(starts: Integers, counts: Integers) -> Integers:
    """Return start, start + 1, ..., start + count - 1 of each pair, concatenated."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + counts, counts)


def begins_run(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return a mask of the sorted values that differ from the one before."""
    begins = np.ones(len(values), dtype=bool)
    begins[1:] = values[1:] != values[:-1]
    return begins


def in_shared_run(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return a mask of the sorted values that are equal to a neighbour."""
    begins = begins_run(values)
    # A lone value begins a run, and so does the next value (for the last one: the first).
    return ~(begins & np.roll(begins, -1))


def normalized(text: str) -> str:
    """Return the text casefolded, without punctuation and with single spaces.

    A text that is only punctuation keeps it, because `{}` and `...` are not the same.
    """
    # Casefolding alone would leave full-width letters and superscripts as they are.
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_PUNCTUATION).split()) or " ".join(folded.split())


class _Punctuation(dict[int, int | None]):
    """Tells `str.translate` what becomes of a character; each is looked up once."""

    def __missing__(self, code: int) -> int | None:
        is_punctuation = unicodedata.category(chr(code)).startswith("P")
        value = self[code] = None if is_punctuation else code
        return value


_PUNCTUATION = _Punctuation()


def encoded(text: str) -> bytes:
    """Return the text as UTF-8; a lone surrogate, as in a hostile file, is no error."""
    return text.encode("utf-8", "surrogatepass")


def text_hash(text: str) -> int:
    """Return 64 bits of the text's BLAKE2b hash; never 0, which stands for no text."""
    return int.from_bytes(hashlib.blake2b(encoded(text), digest_size=8).digest(), "little") or 1


def mixed(values: Hashes) -> Hashes:
    """Return hashes whose bits all depend on all bits of the value (as in SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def combined(columns: npt.NDArray[Any]) -> Hashes:
    """Return a hash for each row of up to 65 unsigned values; the columns' order matters."""
    total = np.zeros(len(columns), dtype=np.uint64)
    for column, multiplier in zip(columns.T, _MULTIPLIERS, strict=False):
        total += column.astype(np.uint64) * multiplier
    return mixed(total)


def spaced(text: str) -> str:
    """Return a normalised text with blanks around each letter of scripts that have none."""
    if text.isascii() or _UNSPACED_LETTER.search(text) is None:
        return text
    return " ".join(_UNSPACED_LETTER.sub(r" \1 ", text).split()) or text


class _WordHashes(dict[str, int]):
    """Hashes of words, each computed once."""

    def __missing__(self, word: str) -> int:
        value = self[word] = text_hash(word)
        return value


def word_hashes(texts: Sequence[str]) -> Ragged:
    """Return the hash of each word of normalised texts; an empty text has one word."""
    words = [text.split(" ") for text in texts]
    counts = np.fromiter(map(len, words), np.int64, len(words))
    hashes = map(_WordHashes().__getitem__, chain.from_iterable(words))
    return ragged(np.fromiter(hashes, np.uint64, int(counts.sum())), counts)


def word_shingles(words: Ragged) -> Ragged:
    """Return the hashes of all runs of three words; a text with fewer words has none."""
    return _windows(words, _WORDS_PER_SHINGLE)


def character_shingles(texts: Sequence[str]) -> Ragged:
    """Return the hashes of all runs of five characters; a shorter text is one shingle."""
    # U+10FFFF is a noncharacter, so padding can't be mistaken for content.
    padded = [text.ljust(_CHARACTERS_PER_SHINGLE, "\U0010ffff") for text in texts]
    counts = np.fromiter(map(len, padded), np.int64, len(padded))
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return _windows(ragged(codes.astype(np.uint64), counts), _CHARACTERS_PER_SHINGLE)


def _windows(elements: Ragged, width: int) -> Ragged:
    """Return the hash of each run of `width` elements within a text."""
    counts = np.maximum(elements.counts - width + 1, 0)
    starts = spans(elements.starts[:-1], counts)
    total = np.zeros(len(starts), dtype=np.uint64)
    for offset in range(width):
        # A multiplier for each position: the same elements in another order hash differently.
        total += elements.values[starts + offset] * _MULTIPLIERS[offset]
    return ragged(mixed(total), counts)


def signatures(shingles: Ragged) -> npt.NDArray[np.uint8]:
    """Return MinHash signatures, [texts, `PERMUTATIONS`].

    The share of equal slots of two signatures estimates the Jaccard index of their texts. This is
    rensa's fast similarity sketching (Dahlgaard, Knudsen and Thorup 2017); each text needs a
    shingle. rensa keeps threads that a forked process would lose, so workers have to be spawned.
    """
    texts = len(shingles.starts) - 1
    if texts == 0:
        return np.empty((0, PERMUTATIONS), dtype=np.uint8)

    starts = shingles.starts.astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        shingles.values, starts, PERMUTATIONS, _SEED
    )

    # Multiplicative hashing makes the upper 8 bits depend on all bits of a slot.
    slots = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint32, texts * PERMUTATIONS)
    mixed_slots = (slots * np.uint32(2654435769)) >> np.uint32(24)
    return mixed_slots.astype(np.uint8).reshape(texts, PERMUTATIONS)


def smallest(shingles: Ragged) -> Ragged:
    """Return each text's distinct shingles, at most the `LARGEST_SAMPLE` smallest.

    They are the upper 32 bits of the hashes, sorted.
    """
    # The text in the upper half of each key keeps the texts apart while sorting.
    texts = np.repeat(np.arange(len(shingles.starts) - 1, dtype=np.uint64), shingles.counts)
    keys = np.sort((texts << np.uint64(32)) | (shingles.values >> np.uint64(32)))
    keys = keys[begins_run(keys)]

    text_of_key = (keys >> np.uint64(32)).astype(np.int64)
    counts = np.bincount(text_of_key, minlength=len(shingles.starts) - 1)
    starts = np.cumsum(counts) - counts
    rank = np.arange(len(keys)) - np.repeat(starts, counts)
    sample = keys[rank < LARGEST_SAMPLE].astype(np.uint32)
    return ragged(sample, np.minimum(counts, LARGEST_SAMPLE))


def one_word_masks(words: Ragged, fewest: int) -> tuple[Hashes, Integers, npt.NDArray[np.uint8]]:
    """Return the masks of texts of `fewest` to 64 words: without each word, and whole.

    Two texts whose masks at one position are equal differ by a substituted word. A text whose mask
    equals another whole text has one word more. For that, texts with one word fewer than `fewest`
    have a whole mask too.

    Returns:
        The hash, the text and the position of each mask; the position is `WHOLE` if no word is left
        out.
    """
    masks: list[tuple[Hashes, Integers, npt.NDArray[np.uint8]]] = []
    for size in range(max(fewest - 1, 1), _LONGEST_MASKED + 1):
        # Texts of equal length form a rectangle, so that all of their masks are computed at once.
        texts = np.flatnonzero(words.counts == size)
        if len(texts) == 0:
            continue
        hashes = _masked_hashes(words.of(texts).values.reshape(len(texts), size))
        positions = np.arange(size + 1, dtype=np.uint8)
        positions[size] = WHOLE
        if size < fewest:
            hashes, positions = hashes[:, size:], positions[size:]

        text_of_mask = np.repeat(texts, len(positions))
        masks.append((hashes.ravel(), text_of_mask, np.tile(positions, len(texts))))

    if not masks:
        no_text = np.empty(0, dtype=np.int64)
        return no_text.astype(np.uint64), no_text, no_text.astype(np.uint8)
    all_hashes, all_texts, all_positions = zip(*masks, strict=True)
    return np.concatenate(all_hashes), np.concatenate(all_texts), np.concatenate(all_positions)


def _masked_hashes(words: Hashes) -> Hashes:
    """Return the hash of each text without each of its words, and whole in the last column.

    Args:
        words: Hashes of the words of texts of equal length, [texts, size].
    """
    texts, size = words.shape
    before = np.zeros((texts, size + 1), dtype=np.uint64)
    np.cumsum(words * _MULTIPLIERS[1 : size + 1], axis=1, out=before[:, 1:])

    # The words after the one that is left out move one position forward.
    moved = np.cumsum(words * _MULTIPLIERS[:size], axis=1)
    hashes = before.copy()
    hashes[:, :size] += moved[:, -1:] - moved

    # The number of words keeps masks from matching texts of another length.
    lengths = np.full(size + 1, size - 1, dtype=np.uint64)
    lengths[size] = size
    return mixed(hashes + lengths)
