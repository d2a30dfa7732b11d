"""Looks: how often test rows were asked whether a candidate is better, and what a look may claim.

Of equal candidates, one in forty passes a 95 % interval by chance. So fifty trainings that are
judged by the same test rows would move root in most cases. The m-th look since root last moved
therefore asks for an interval of 1 - 0.05 / m: a Bonferroni correction that grows with the looks
(`significance.bonferroni_confidence`).
"""

import bisect
import hashlib
from collections.abc import Iterable, Sequence

SKETCH_SIZE = 1000
"""Rows that stand for a test side: two sides of one size tell their share to some 2 points."""


def rows_sketch(row_texts: Iterable[Sequence[str]]) -> list[str]:
    """Return the sketch of a test side, by which the rows that two sides share are counted.

    It is a bottom-k sketch (Bar-Yossef et al. 2002, "Counting distinct elements in a data stream"):
    the lowest hashes of the rows, so that sides are sampled in the same way, whatever their sizes.

    Args:
        row_texts: The texts of each row.

    Returns:
        At most `SKETCH_SIZE` hashes (hexadecimal, 64 bits), ascending.
    """
    return sorted(set(map(_row_hash, row_texts)))[:SKETCH_SIZE]


def are_new(row_texts: Iterable[Sequence[str]], sketch: Sequence[str]) -> list[bool]:
    """Tell for each row whether it was certainly not among an earlier test side's rows.

    A full sketch doesn't know the rows whose hash is above its last one: these count as old.

    Args:
        row_texts: The texts of each row.
        sketch: The sketch of an earlier test side.
    """
    known, is_full = set(sketch), len(sketch) >= SKETCH_SIZE
    hashes = map(_row_hash, row_texts)
    return [
        row_hash not in known and not (is_full and row_hash > sketch[-1]) for row_hash in hashes
    ]


def _row_hash(texts: Sequence[str]) -> str:
    return hashlib.blake2b(repr(list(texts)).encode(), digest_size=8).hexdigest()


def shared_share(sketch: Sequence[str], earlier: Sequence[str]) -> float:
    """Return the share of a side's rows that an earlier side had, estimated from their sketches.

    It is exact if neither side has more than `SKETCH_SIZE` rows.
    """
    if not sketch or not earlier:
        return 0.0

    # A full sketch knows nothing of the hashes above its last one.
    limits = [hashes[-1] for hashes in (sketch, earlier) if len(hashes) >= SKETCH_SIZE]
    comparable = sketch[: bisect.bisect_right(sketch, min(limits))] if limits else sketch
    # A side of few rows may have no hash so low.
    if not comparable:
        return 0.0
    return len(set(earlier).intersection(comparable)) / len(comparable)
