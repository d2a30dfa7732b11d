"""The rows that a model looks at: which ones, their vectors, kept from run to run, and the previous session's rows."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.cache import ResultCache
from tunetrail.data.checks.session_checks import Vectors
from tunetrail.data.rows import texts_of_rows

_JUDGED_CHARACTERS = 400
"""Of a row: enough to see what it is about, and short enough for thousands of rows."""
_BUCKETS = 16
"""A new row changes the texts of one bucket; the vectors of the others are kept."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What the checks that need a model work with.

    Attributes:
        vectors: Unit vectors of texts; None turns those checks off.
        identity: Names the model; equal ones give equal vectors.
        reference: Rows of the previous session, None where there is none.
    """

    vectors: Vectors | None = None
    identity: str = ""
    reference: pd.DataFrame | None = None


def drawn(row_ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Return the positions of up to `count` rows, ascending: those whose ids' hashes are the smallest.

    So a session that grows keeps most of the rows that were drawn before.
    """
    with np.errstate(over="ignore"):
        mixed = row_ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(0xD6E8FEB86659FD93)
        mixed ^= mixed >> np.uint64(32)
    return np.sort(np.argsort(mixed, kind="stable")[:count])


def texts_to_judge(rows: pd.DataFrame) -> list[str]:
    """Return one text for each row: the beginning of all of its texts, one behind the other."""
    return ["\n".join(texts)[:_JUDGED_CHARACTERS] for texts in texts_of_rows(rows)]


def kept_vectors(judge: Judge, texts: Sequence[str], cache: ResultCache) -> npt.NDArray[np.float32]:
    """Return the vectors of texts, [texts, dimensions], from the cache where they are there."""
    assert judge.vectors is not None
    buckets: dict[int, dict[str, None]] = defaultdict(dict)
    for text in texts:
        buckets[hashlib.sha256(text.encode()).digest()[0] % _BUCKETS][text] = None
    found: dict[str, npt.NDArray[np.float32]] = {}
    missing: list[tuple[Path, list[str]]] = []
    for members in buckets.values():
        distinct = sorted(members)
        path = cache.place("vectors", judge.identity, *distinct) / "vectors.npy"
        kept = _read(path)
        if kept is not None and len(kept) == len(distinct):
            found.update(zip(distinct, kept, strict=True))
        else:
            missing.append((path, distinct))
    computed = (
        judge.vectors([text for _, distinct in missing for text in distinct]) if missing else None
    )
    start = 0
    for path, distinct in missing:
        assert computed is not None
        part = np.asarray(computed[start : start + len(distinct)], dtype=np.float32)
        start += len(distinct)
        with cache.writing(path) as unfinished:
            np.save(unfinished, part, allow_pickle=False)
        found.update(zip(distinct, part, strict=True))
    return (
        np.stack([found[text] for text in texts]) if texts else np.zeros((0, 0), dtype=np.float32)
    )


def _read(file: Path) -> npt.NDArray[np.float32] | None:
    """Return the vectors of a file, None where it isn't there or is broken."""
    try:
        return np.asarray(np.load(file, allow_pickle=False), dtype=np.float32)
    except (OSError, ValueError, EOFError):
        return None
