"""Ids of samples in a few bits each, as the ledger keeps what a version has learnt from."""

import zlib

import numpy as np
import numpy.typing as npt

RowIds = npt.NDArray[np.int64]


def pack_row_ids(row_ids: npt.ArrayLike) -> bytes:
    """Return row ids as a few bits each: the compressed gaps between them."""
    distinct = np.unique(np.asarray(row_ids, dtype=np.int64))
    # Samples of a session mostly have neighbouring ids, so most gaps are 1 to 3.
    gaps = np.diff(distinct, prepend=0)
    return zlib.compress(gaps.astype("<i8").tobytes())


def unpack_row_ids(packed: bytes) -> RowIds:
    """Return what `pack_row_ids` packed, ascending and distinct."""
    gaps = np.frombuffer(zlib.decompress(packed), dtype="<i8")
    return np.cumsum(gaps, dtype=np.int64)
