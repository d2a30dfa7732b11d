"""Shingles: turns texts into numbers that are equal where parts of the texts are. Knows nothing of rows or of twins.

Every number follows from the text alone and is the same in every process, on every machine and in every chunk.
"""

import functools
import hashlib
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import rensa

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.signedinteger[Any]]

PERMUTATIONS = 128
"""Slots of a MinHash signature; each keeps 8 bits, so that unlike shingles agree once in 256 (Li and König 2010)."""
LARGEST_SAMPLE = 1024
"""Shingle hashes kept of one text: all of them, or the smallest (a bottom-k sample, Cohen and Kaspar 2007)."""
WHOLE = 255
"""The position that a one-word mask has when no word is left out."""

_SEED = 42
_WORDS_PER_SHINGLE = 3
_CHARACTERS_PER_SHINGLE = 5
_LONGEST_MASKED = 64


def _multipliers(count: int) -> Hashes:
    digests = [hashlib.blake2b(b"%d" % number, digest_size=8).digest() for number in range(count)]
    return np.array([int.from_bytes(digest, "little") | 1 for digest in digests], dtype=np.uint64)


_MULTIPLIERS = _multipliers(_LONGEST_MASKED + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ragged:
    """One run of values per text: those of text `i` are `values[starts[i] : starts[i + 1]]`."""

    values: npt.NDArray[Any]
    starts: Integers

    @property
    def counts(self) -> Integers:
        """Number of values of each text."""
        return np.diff(self.starts)

    def of(self, texts: Integers) -> "Ragged":
        """Return the runs of these texts alone, in their order."""
        return ragged(
            self.values[spans(self.starts[texts], self.counts[texts])], self.counts[texts]
        )


def ragged(values: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Ragged:
    """Return values that lie text by text, with how many each text has."""
    return Ragged(values=values, starts=np.concatenate(([0], np.cumsum(counts, dtype=np.int64))))


def spans(starts: Integers, counts: Integers) -> Integers:
    """Return start, start + 1, ... start + count - 1 of each pair, one after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - ends + counts, counts)


def begins_run(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which of sorted values differ from the one before; the first one does."""
    begins = np.ones(len(values), dtype=bool)
    begins[1:] = values[1:] != values[:-1]
    return begins


def in_shared_run(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which of sorted values are equal to a neighbour."""
    begins = begins_run(values)
    return ~(begins & np.roll(begins, -1))


def normalized(text: str) -> str:
    """Return the text casefolded, without punctuation, its white space folded.

    A text of nothing but punctuation keeps it: `{}` and `...` are not the same.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_punctuation()).split()) or " ".join(folded.split())


@functools.cache
def _punctuation() -> Mapping[int, None]:
    codes = range(sys.maxunicode + 1)
    return dict.fromkeys(code for code in codes if unicodedata.category(chr(code)).startswith("P"))


def encoded(text: str) -> bytes:
    """Return the text as UTF-8; a lone surrogate, which a hostile file may bring, is no error."""
    return text.encode("utf-8", "surrogatepass")


def text_hash(text: str) -> int:
    """Return 64 bits of the text's BLAKE2b hash, never 0, which stands for no text."""
    return int.from_bytes(hashlib.blake2b(encoded(text), digest_size=8).digest(), "little") or 1


def mixed(values: Hashes) -> Hashes:
    """Return hashes of which every bit depends on every bit of the value (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def combined(columns: npt.NDArray[Any]) -> Hashes:
    """Return one hash for each row of up to 65 unsigned values; the order of the columns matters."""
    total = np.zeros(len(columns), dtype=np.uint64)
    for number in range(columns.shape[1]):
        total += columns[:, number].astype(np.uint64) * _MULTIPLIERS[number]
    return mixed(total)


class _WordHashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        value = self[word] = text_hash(word)
        return value


def word_hashes(texts: Sequence[str]) -> Ragged:
    """Return the hash of each word of normalised texts; an empty text has one word, the empty one."""
    words = [text.split(" ") for text in texts]
    counts = np.fromiter(map(len, words), np.int64, len(words))
    known = _WordHashes()
    flat = map(known.__getitem__, chain.from_iterable(words))
    return ragged(np.fromiter(flat, np.uint64, int(counts.sum())), counts)


def word_shingles(words: Ragged) -> Ragged:
    """Return the hashes of all runs of three words; a text of fewer words has none."""
    return _windows(words, _WORDS_PER_SHINGLE)


def character_shingles(texts: Sequence[str]) -> Ragged:
    """Return the hashes of all runs of five characters; a shorter text is one shingle."""
    padded = [text.ljust(_CHARACTERS_PER_SHINGLE, "\U0010ffff") for text in texts]
    counts = np.fromiter(map(len, padded), np.int64, len(padded))
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return _windows(ragged(codes.astype(np.uint64), counts), _CHARACTERS_PER_SHINGLE)


def _windows(parts: Ragged, width: int) -> Ragged:
    counts = np.maximum(parts.counts - width + 1, 0)
    firsts = spans(parts.starts[:-1], counts)
    total = np.zeros(len(firsts), dtype=np.uint64)
    for number in range(width):
        total += parts.values[firsts + number] * _MULTIPLIERS[number]
    return ragged(mixed(total), counts)


def signatures(shingles: Ragged) -> npt.NDArray[np.uint8]:
    """Return MinHash signatures, [texts, `PERMUTATIONS`], whose share of equal slots estimates the Jaccard index.

    Fast similarity sketching (Dahlgaard, Knudsen and Thorup 2017) as rensa does it; needs a shingle in each text.
    rensa keeps threads, which a process loses that is forked from this one: workers have to be started afresh.
    """
    texts = len(shingles.starts) - 1
    if texts == 0:
        return np.empty((0, PERMUTATIONS), dtype=np.uint8)
    starts = shingles.starts.astype(np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        shingles.values, starts, PERMUTATIONS, _SEED
    )
    slots = np.fromiter(chain.from_iterable(matrix.to_rows()), np.uint32, texts * PERMUTATIONS)
    mixed_slots = (slots * np.uint32(2654435769)) >> np.uint32(24)
    return mixed_slots.astype(np.uint8).reshape(texts, PERMUTATIONS)


def smallest(shingles: Ragged) -> Ragged:
    """Return each text's distinct shingles (32 bits of each hash, sorted), the `LARGEST_SAMPLE` smallest at most."""
    texts = np.repeat(np.arange(len(shingles.starts) - 1, dtype=np.uint64), shingles.counts)
    keys = np.sort((texts << np.uint64(32)) | (shingles.values >> np.uint64(32)))
    keys = keys[begins_run(keys)]
    counts = np.bincount(
        (keys >> np.uint64(32)).astype(np.int64), minlength=len(shingles.starts) - 1
    )
    firsts = np.cumsum(counts) - counts
    rank = np.arange(len(keys)) - np.repeat(firsts, counts)
    return ragged(keys[rank < LARGEST_SAMPLE].astype(np.uint32), np.minimum(counts, LARGEST_SAMPLE))


def one_word_masks(words: Ragged, fewest: int) -> tuple[Hashes, Integers, npt.NDArray[np.uint8]]:
    """Return (hash, text, position) of each text of `fewest` to 64 words, without each of its words and whole.

    Texts without one word each are equal, the word at the same position, when one word was substituted. A text without
    one word and another whole one are equal when a word was inserted or deleted; a text of one word less than `fewest`
    is there for that, whole only. Position `WHOLE` marks whole texts.
    """
    counts = words.counts
    found: list[tuple[Hashes, Integers, npt.NDArray[np.uint8]]] = []
    for size in range(max(fewest - 1, 1), _LONGEST_MASKED + 1):
        texts = np.flatnonzero(counts == size)
        if len(texts) == 0:
            continue
        matrix = words.of(texts).values.reshape(len(texts), size)
        before = np.zeros((len(texts), size + 1), dtype=np.uint64)
        np.cumsum(matrix * _MULTIPLIERS[1 : size + 1], axis=1, out=before[:, 1:])
        moved = np.cumsum(matrix * _MULTIPLIERS[:size], axis=1)
        hashes = before.copy()
        # what stands behind the word that is left out moves up by one place
        hashes[:, :size] += moved[:, -1:] - moved
        lengths = np.full(size + 1, size - 1, dtype=np.uint64)
        lengths[size] = size
        positions = np.arange(size + 1, dtype=np.uint8)
        positions[size] = WHOLE
        kept = slice(size, size + 1) if size < fewest else slice(0, size + 1)
        keys, positions = mixed(hashes + lengths)[:, kept], positions[kept]
        found.append(
            (keys.ravel(), np.repeat(texts, len(positions)), np.tile(positions, len(texts)))
        )
    if not found:
        return (
            np.empty(0, dtype=np.uint64),
            np.empty(0, dtype=np.int64),
            np.empty(0, dtype=np.uint8),
        )
    joined = [np.concatenate(column) for column in zip(*found, strict=True)]
    return joined[0], joined[1], joined[2]
