"""Vectors of rows: which rows the session's checks look at, and how their texts become vectors."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.cache import ResultCache, read_array
from tunetrail.data.rows import texts_of_rows

MOST_DIMENSIONS = 512
"""More dimensions than this are reduced: the checks' time grows with the cube of their number."""

# Enough to see what a row is about, and short enough for thousands of rows.
_CHARACTERS_PER_ROW = 400
# The cache has a file for each bucket of texts. A new row changes one of them.
_BUCKETS = 16

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Returns the unit vectors of texts, [texts, dimensions], by the model that will be trained."""


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A model that makes vectors of texts.

    Attributes:
        encode: Returns the vectors.
        identity: Names the model; encoders of the same identity return the same vectors.
    """

    encode: Encode
    identity: str

    def cached_vectors(self, texts: Sequence[str], cache: ResultCache) -> npt.NDArray[np.float32]:
        """Return the vectors of texts, [texts, dimensions]; those in the cache aren't encoded."""
        if not texts:
            return np.zeros((0, 0), dtype=np.float32)

        buckets = _buckets(texts)
        vectors, missing = self._look_up(buckets, cache)
        if missing:
            with cache.computing("the vectors of the rows", "vectors", self.identity):
                # Another process may have encoded them while this one waited.
                vectors, missing = self._look_up(buckets, cache)
                vectors.update(self._encode_buckets(missing, cache))
        return np.stack([vectors[text] for text in texts])

    def known_vectors(
        self, texts: Sequence[str], cache: ResultCache
    ) -> npt.NDArray[np.float32] | None:
        """Return the vectors of texts that were all encoded together before, or None."""
        vectors, missing = self._look_up(_buckets(texts), cache)
        return None if missing or not texts else np.stack([vectors[text] for text in texts])

    def _look_up(
        self, buckets: Sequence[list[str]], cache: ResultCache
    ) -> tuple[dict[str, npt.NDArray[np.float32]], dict[Path, list[str]]]:
        """Return the cached vectors by text, and the texts of the other buckets by their file."""
        vectors: dict[str, npt.NDArray[np.float32]] = {}
        missing: dict[Path, list[str]] = {}
        for texts in buckets:
            path = cache.place("vectors", self.identity, *texts) / "vectors.npy"
            cached = read_array(path)
            if cached is not None and len(cached) == len(texts):
                vectors.update(zip(texts, np.asarray(cached, dtype=np.float32), strict=True))
            else:
                missing[path] = texts
        return vectors, missing

    def _encode_buckets(
        self, buckets: dict[Path, list[str]], cache: ResultCache
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Encode the texts of all buckets at once, and write each bucket's vectors to its file."""
        texts = list(chain.from_iterable(buckets.values()))
        if not texts:
            return {}

        encoded = np.asarray(self.encode(texts), dtype=np.float32)
        start = 0
        for path, bucket_texts in buckets.items():
            end = start + len(bucket_texts)
            with cache.writing(path) as unfinished:
                np.save(unfinished, encoded[start:end], allow_pickle=False)
            start = end
        return dict(zip(texts, encoded, strict=True))


def _buckets(texts: Sequence[str]) -> list[list[str]]:
    """Return the texts, each once, by buckets: each text's own, whatever the others are."""
    buckets: dict[int, set[str]] = defaultdict(set)
    for text in texts:
        buckets[hashlib.sha256(text.encode()).digest()[0] % _BUCKETS].add(text)
    return list(map(sorted, buckets.values()))


def sample_positions(row_ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return the positions of at most `count` rows, ascending: the smallest by a hash of their ids.

    The sample of a session that grows keeps most of its rows, and so the cache keeps their vectors.
    """
    # The finaliser of splitmix64, shortened: consecutive ids get unrelated hashes.
    with np.errstate(over="ignore"):
        hashes = row_ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(32)
        hashes *= np.uint64(0xD6E8FEB86659FD93)
        hashes ^= hashes >> np.uint64(32)
    return np.sort(np.argsort(hashes, kind="stable")[:count])


def texts_to_encode(rows: pd.DataFrame) -> list[str]:
    """Return one text for each row: the beginning of all its texts, one after the other."""
    return ["\n".join(texts)[:_CHARACTERS_PER_ROW] for texts in texts_of_rows(rows)]


def normalize_and_reduce(
    vectors: npt.NDArray[np.floating[Any]], *, seed: int
) -> npt.NDArray[np.float64]:
    """Scale vectors to length 1, and reduce many dimensions; float64, [rows, dimensions].

    Zero vectors stay zero. If both the dimensions and the rows are more than `MOST_DIMENSIONS`, the
    dimensions are reduced to that number of principal components.

    Args:
        vectors: [rows, dimensions], finite.
        seed: For the principal components.
    """
    raw = np.asarray(vectors, dtype=np.float64)
    # Divided by the largest value first, so that no square overflows.
    raw = raw / np.maximum(np.abs(raw).max(axis=1, keepdims=True, initial=0.0), 1e-300)
    units: npt.NDArray[np.float64] = raw / np.maximum(
        np.linalg.norm(raw, axis=1, keepdims=True), 1e-12
    )

    if min(units.shape) > MOST_DIMENSIONS:
        # Late: few models have more dimensions, and whoever reads the cache imports this module.
        from sklearn.decomposition import PCA

        components = PCA(MOST_DIMENSIONS, svd_solver="randomized", random_state=seed)
        units = np.asarray(components.fit_transform(units))
    return units
