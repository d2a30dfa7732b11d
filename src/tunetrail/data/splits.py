"""Splits: gives each cluster of twins one side (train, validation or test) and one fold.

A cluster's side is a pure function of its key, so rows keep their side when the session grows. If
rows have timestamps, the newest ones are held out instead. Only folds depend on a seed.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import SplitConfig
from tunetrail.data.twins.duplicates import cluster_keys
from tunetrail.errors import ConfigError, SampleError

SIDES = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows by side; no cluster is on two sides.

    Attributes:
        train: Rows to learn from, with a column `cluster` like the other sides.
        validation: Rows that choose the checkpoint.
        test: Rows that are scored once, at the end.
        method: `content` or `time`.
        warnings: Sides that are far from their share, which a few large clusters can cause.
    """

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    method: str = "content"
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-serialisable."""
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "rows": {side: len(rows) for side, rows in sides.items()},
            "clusters": {side: int(rows["cluster"].nunique()) for side, rows in sides.items()},
            "method": self.method,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One way to cut the train side into rows to train on and rows to score.

    Attributes:
        number: The fold's number, from 0.
        train: Rows to train on.
        validation: Rows to score.
    """

    number: int
    train: pd.DataFrame
    validation: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-serialisable."""
        return {"number": self.number, "train": len(self.train), "validation": len(self.validation)}


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The side of each row.

    Attributes:
        sides: Names of sides, [rows].
        method: How they were chosen, `content` or `time`.
        warnings: Sides that are far from their share.
    """

    sides: npt.NDArray[np.str_]
    method: str
    warnings: tuple[str, ...] = ()


def split_rows(rows: pd.DataFrame, config: SplitConfig) -> Split:
    """Split cleaned rows by cluster; `assign_sides` describes how.

    Raises:
        SampleError: There are fewer than three clusters.
    """
    clusters = cluster_keys(rows, config.near_duplicate_similarity)
    timestamps = list(rows["timestamp"]) if "timestamp" in rows else [None] * len(rows)
    labels = list(rows["label"]) if "label" in rows else None
    assigned = assign_sides(clusters, config, timestamps=timestamps, labels=labels)

    clustered = rows.assign(cluster=pd.Series(clusters, dtype=object, index=rows.index))
    frames = {side: clustered[assigned.sides == side].reset_index(drop=True) for side in SIDES}
    check_no_leak(frames)
    return Split(**frames, method=assigned.method, warnings=assigned.warnings)


def assign_sides(
    clusters: Sequence[str],
    config: SplitConfig,
    *,
    timestamps: Sequence[str | None],
    labels: Sequence[str | None] | None = None,
) -> Sides:
    """Return the side of each row.

    By content: with u in [0, 1) drawn from sha256(salt + cluster key), a cluster is in the test
    split if u < test_share, in the validation split if u < test_share + validation_share, and
    otherwise in the train split. A side that would be empty takes the cluster whose u is nearest to
    the side's interval, from a side that has more than one. From the third cluster of a label on, a
    cluster goes to a held-out side that lacks the label instead of the train split.

    By time, if the config says so or the oldest row has a timestamp: a cluster is as old as its
    oldest row, and a row without a timestamp as old as the row before it. The newest test_share of
    the clusters are the test split, and the validation_share before them the validation split. As
    newer rows come in, a row moves towards the train split; only older rows that come in late can
    move it back.

    Args:
        clusters: The key of each row's cluster.
        config: Shares, salt and method.
        timestamps: ISO 8601 times, None if unknown; rows are in the order in which they arrived.
        labels: The label of each row, if rows have any.

    Raises:
        SampleError: There are fewer than three clusters, or no timestamps with `method: time`.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, cluster in enumerate(clusters):
        members[cluster].append(position)

    if len(members) < len(SIDES):
        raise SampleError(
            "rows must form at least 3 clusters of near-duplicates to be split, "
            f"got {len(members)} from {len(clusters)} rows. Collect more varied samples, give "
            "fewer rows the same `group`, or raise split.near_duplicate_similarity."
        )
    if config.method == "time" and all(timestamp is None for timestamp in timestamps):
        raise SampleError(
            "split.method must be content if rows have no timestamp, "
            f"got 'time' for {len(clusters)} rows without one. "
            "Add a column `timestamp`, or choose split.method=content."
        )

    # The oldest row decides: it stays the same as the session grows, and so does the method.
    method = config.method
    if method == "auto":
        method = "content" if timestamps[0] is None else "time"
    if method == "time":
        side_of = _sides_by_time(members, timestamps, config)
    else:
        side_of = _sides_by_content(sorted(members), config)
        if labels is not None and config.stratify:
            _spread_labels(side_of, members, labels)

    # "validation" has ten letters.
    sides = np.empty(len(clusters), dtype="<U10")
    for cluster, positions in members.items():
        sides[positions] = side_of[cluster]
    return Sides(sides=sides, method=method, warnings=_warnings(sides, members, side_of, config))


def check_no_leak(sides: Mapping[str, pd.DataFrame]) -> None:
    """Raise `SampleError` if two of the named frames share a cluster."""
    for (first, first_rows), (second, second_rows) in combinations(sides.items(), 2):
        shared = set(first_rows["cluster"]) & set(second_rows["cluster"])
        if shared:
            raise SampleError(
                f"clusters must be on one side only, got {len(shared)} both in {first} and in "
                f"{second}, for example {min(shared)[:12]}. Split with split_rows or make_folds."
            )


def make_folds(
    train_rows: pd.DataFrame, n_splits: int, seed: int, *, by_time: bool = False
) -> list[Fold]:
    """Cut rows with a column `cluster` into folds of nearly equal size; no cluster is cut.

    Rows with labels are stratified: each fold gets nearly the same number of rows of a label. By
    time, the rows are cut into n_splits + 1 blocks, and each fold is trained on the blocks before
    the one that it is scored on. Augmented rows (with a `parent_id`) are trained on with their
    parent and never scored. With an `n_splits` of 0 there are no folds.

    Raises:
        ConfigError: `n_splits` is 1, negative, or above the number of clusters (by time:
            clusters - 1).
    """
    if n_splits == 0:
        return []
    is_original = np.ones(len(train_rows), dtype=bool)
    if "parent_id" in train_rows:
        is_original = train_rows["parent_id"].isna().to_numpy(bool)
    clusters = train_rows["cluster"].to_numpy(dtype=object)
    # Augmented rows are never scored, so they don't count for the size of a fold.
    sizes = Counter(clusters[is_original])
    _check_fold_count(n_splits, len(sizes), len(train_rows), by_time=by_time)

    if by_time:
        block_of = _blocks(sizes, _oldest_moments(train_rows), n_splits + 1)
        block = np.array([block_of[cluster] for cluster in clusters])
        # Trained on the past and scored on what came next, as in production.
        cuts = [(block < scored, block == scored) for scored in range(1, n_splits + 1)]
    else:
        labels = train_rows["label"] if "label" in train_rows else [None] * len(train_rows)
        original_labels = np.array(labels, dtype=object)[is_original]
        label_of = dict(zip(clusters[is_original], original_labels, strict=True))
        # Sorted, so that folds depend on the seed and not on the order of the rows.
        fold_of = _balanced_folds(dict(sorted(sizes.items())), label_of, n_splits, seed)
        fold = np.array([fold_of[cluster] for cluster in clusters])
        cuts = [(fold != scored, fold == scored) for scored in range(n_splits)]

    folds = []
    for number, (is_trained, is_held_out) in enumerate(cuts):
        train = train_rows[is_trained].reset_index(drop=True)
        validation = train_rows[is_held_out & is_original].reset_index(drop=True)
        check_no_leak({"train": train, "validation": validation})
        folds.append(Fold(number=number, train=train, validation=validation))
    return folds


def _check_fold_count(n_splits: int, clusters: int, rows: int, *, by_time: bool) -> None:
    most = clusters - by_time
    if 2 <= n_splits <= most:
        return

    if n_splits < 2:
        rule = "at least 2"
    elif most < 2:
        rule = f"0 (off) for these {rows} rows"
    else:
        limit = "the number of clusters - 1" if by_time else "the number of clusters"
        rule = f"at most {most}, {limit}, for these {rows} rows"
    raise ConfigError(
        f"cross_validation.n_splits must be {rule}, got {n_splits}. "
        "Change it, turn cross-validation off with 0, or collect more samples."
    )


def _oldest_moments(rows: pd.DataFrame) -> dict[str, float]:
    """Return the moment of the oldest row of each cluster."""
    oldest: dict[str, float] = {}
    for cluster, moment in zip(rows["cluster"], _moments(rows["timestamp"]), strict=True):
        oldest[cluster] = min(moment, oldest.get(cluster, moment))
    return oldest


def _sides_by_content(clusters: Sequence[str], config: SplitConfig) -> dict[str, str]:
    """Return the side of each cluster from the hash of its key."""
    # The test side has the lowest draws, so a change of validation_share doesn't move its rows.
    held_out = config.test_share + config.validation_share
    intervals = {
        "test": (0.0, config.test_share),
        "validation": (config.test_share, held_out),
        "train": (held_out, 1.0),
    }
    draws = {cluster: _uniform(config.salt + cluster) for cluster in clusters}
    side_of = {}
    for cluster, draw in draws.items():
        if draw < config.test_share:
            side_of[cluster] = "test"
        else:
            side_of[cluster] = "validation" if draw < held_out else "train"

    # An empty side takes the cluster that is nearest to its interval.
    for side, (low, high) in intervals.items():
        counts = Counter(side_of.values())
        if side in counts:
            continue
        candidates = [cluster for cluster in clusters if counts[side_of[cluster]] > 1]
        nearest = min(candidates, key=lambda key: (max(low - draws[key], draws[key] - high), key))
        side_of[nearest] = side
    return side_of


def _spread_labels(
    side_of: dict[str, str], members: Mapping[str, list[int]], labels: Sequence[str | None]
) -> None:
    """Move clusters from the train split to held-out sides without their label, in place.

    Whether a cluster moves follows only from the clusters before it, as if each was placed when it
    arrived. So a cluster that root has learned from never becomes a test row as more rows come in.
    """
    side_counts_by_label: dict[str, Counter[str]] = defaultdict(Counter)
    clusters_by_arrival = sorted(members, key=lambda cluster: members[cluster][0])

    for cluster in clusters_by_arrival:
        label = labels[members[cluster][0]]
        if label is None:
            continue
        side_counts = side_counts_by_label[label]

        # The train split needs the label most: only a third or later cluster of it may move.
        if side_of[cluster] == "train" and side_counts["train"] and side_counts.total() >= 2:
            without_label = (side for side in ("test", "validation") if not side_counts[side])
            side_of[cluster] = next(without_label, "train")
        side_counts[side_of[cluster]] += 1


def _sides_by_time(
    members: Mapping[str, list[int]], timestamps: Sequence[str | None], config: SplitConfig
) -> dict[str, str]:
    """Return the side of each cluster from its age: the newest clusters are held out."""
    moments = np.array(_moments(timestamps))
    oldest = {cluster: moments[positions].min() for cluster, positions in members.items()}
    newest_first = sorted(members, key=lambda cluster: (oldest[cluster], cluster), reverse=True)

    # Shares of clusters, not of rows: twins of old rows would move the cut back.
    total = len(members)
    # Every side gets at least one cluster, however small its share is.
    test_size = min(max(1, math.ceil(config.test_share * total)), total - 2)
    held_out = math.ceil((config.test_share + config.validation_share) * total)
    validation_end = min(max(test_size + 1, held_out), total - 1)

    side_of = dict.fromkeys(newest_first, "train")
    side_of.update(dict.fromkeys(newest_first[:validation_end], "validation"))
    side_of.update(dict.fromkeys(newest_first[:test_size], "test"))
    return side_of


def _moments(timestamps: Iterable[str | None]) -> list[float]:
    """Return times in seconds since 1970; times without a zone count as UTC.

    A row without a time has that of the row before it; before the first time, it is minus infinity.
    """
    moments, latest = [], -math.inf
    for timestamp in timestamps:
        if timestamp is not None:
            moment = datetime.fromisoformat(timestamp)
            latest = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        moments.append(latest)
    return moments


def _blocks(sizes: Mapping[str, int], oldest: Mapping[str, float], blocks: int) -> dict[str, int]:
    """Return the block of each cluster, the oldest first; blocks have nearly the same size.

    No block is empty.
    """
    ordered = sorted(sizes, key=lambda cluster: (oldest[cluster], cluster))
    total, assigned, block = sum(sizes.values()), 0, 0
    block_of = {}
    for index, cluster in enumerate(ordered):
        # The block that the rows so far have reached; none may be skipped on the way.
        due = min(int(blocks * assigned / total), blocks - 1)
        # From here on, each of the last blocks needs one of the last clusters.
        least = max(0, blocks - (len(ordered) - index))
        block = max(min(due, block + 1), least) if index else 0
        block_of[cluster] = block
        assigned += sizes[cluster]
    return block_of


def _uniform(text: str) -> float:
    """Return a number in [0, 1) that depends only on the text, with the 53 bits of a double."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _warnings(
    sides: npt.NDArray[np.str_],
    members: Mapping[str, list[int]],
    side_of: Mapping[str, str],
    config: SplitConfig,
) -> tuple[str, ...]:
    """Return a sentence for each side that is far from its share."""
    total = len(sides)
    shares = {"test": config.test_share, "validation": config.validation_share}
    shares["train"] = 1.0 - sum(shares.values())
    largest: Counter[str] = Counter()
    for cluster, positions in members.items():
        largest[side_of[cluster]] = max(largest[side_of[cluster]], len(positions))

    warnings = []
    for side, share in shares.items():
        actual = int((sides == side).sum()) / total
        # Four standard deviations of a draw row by row: chance alone hardly ever exceeds that.
        if abs(actual - share) > 4.0 * (share * (1.0 - share) / total) ** 0.5:
            warnings.append(
                f"the {side} split has {actual:.0%} of the rows instead of {share:.0%}; its "
                f"largest cluster of near-duplicates has {largest[side]} rows."
            )
    return tuple(warnings)


def _balanced_folds(
    sizes: Mapping[str, int], label_of: Mapping[str, str | None], n_splits: int, seed: int
) -> dict[str, int]:
    """Return the fold of each cluster.

    The largest clusters come first; each goes to the fold with the fewest rows of its label.
    """
    clusters = list(sizes)
    order = np.random.default_rng(seed).permutation(len(clusters))
    # The sort below is stable, so the seed decides among clusters of equal size.
    shuffled = [clusters[position] for position in order]

    rows_by_fold = [0] * n_splits
    labelled: dict[str | None, list[int]] = defaultdict(lambda: [0] * n_splits)
    fold_of = {}
    for cluster in sorted(shuffled, key=lambda cluster: -sizes[cluster]):
        same_label = labelled[label_of[cluster]]
        fold = min(range(n_splits), key=lambda fold: (same_label[fold], rows_by_fold[fold]))
        fold_of[cluster] = fold
        same_label[fold] += sizes[cluster]
        rows_by_fold[fold] += sizes[cluster]
    return fold_of
