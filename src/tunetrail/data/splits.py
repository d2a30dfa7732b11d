"""Splits: gives each cluster of twins one side, train, validation or test, and one fold. Knows no seed but for folds.

A cluster's side is a pure function of its key, so rows keep their side when the session grows; where rows have
timestamps, the newest ones are held out instead.
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
    """Rows by side, each frame with a `cluster` column; no cluster is on two sides.

    `warnings` names sides that are far from their share, which a few large clusters can cause.
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
    """One way of cutting the train side: what to train on and what to score. `number` counts from 0."""

    number: int
    train: pd.DataFrame
    validation: pd.DataFrame

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-serialisable."""
        return {"number": self.number, "train": len(self.train), "validation": len(self.validation)}


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The side of each row, and how it was chosen: `method` is `content` or `time`."""

    sides: npt.NDArray[np.str_]
    method: str
    warnings: tuple[str, ...] = ()


def split_rows(rows: pd.DataFrame, config: SplitConfig) -> Split:
    """Split cleaned rows by cluster, as `assign_sides` says.

    Raises:
        SampleError: There are fewer than three clusters.
    """
    clusters = cluster_keys(rows, config.near_duplicate_similarity)
    timestamps = list(rows["timestamp"]) if "timestamp" in rows else [None] * len(rows)
    labels = list(rows["label"]) if "label" in rows else None
    assigned = assign_sides(clusters, config, timestamps=timestamps, labels=labels)
    framed = rows.assign(cluster=pd.Series(clusters, dtype=object, index=rows.index))
    frames = {name: framed[assigned.sides == name].reset_index(drop=True) for name in SIDES}
    check_no_leak(frames)
    return Split(
        train=frames["train"],
        validation=frames["validation"],
        test=frames["test"],
        method=assigned.method,
        warnings=assigned.warnings,
    )


def assign_sides(
    clusters: Sequence[str],
    config: SplitConfig,
    *,
    timestamps: Sequence[str | None],
    labels: Sequence[str | None] | None = None,
) -> Sides:
    """Return the side of each row.

    By content: with u in [0, 1) drawn from sha256(salt + cluster key), a cluster is in the test split if u <
    test_share, in the validation split if u < test_share + validation_share, else in the train split. A side that this
    leaves empty takes the one cluster whose u is nearest to the side's interval from a side that can spare it. The
    third cluster of a label, or a later one, goes to a held-out side that lacks the label instead of the train split.

    By time, where asked for or where the oldest row has a timestamp: a cluster is as old as its oldest row, and a row
    without a timestamp as old as the one before it; the newest test_share of the clusters are the test split, the
    validation_share before them the validation split. As newer rows come in, a row moves towards the train split; only
    older rows that come in late can move it back.

    Args:
        clusters: The key of each row's cluster.
        config: Shares, salt and method.
        timestamps: ISO 8601 times, None where unknown; rows come in the order in which they arrived.
        labels: The label of each row, if rows have any.

    Raises:
        SampleError: There are fewer than three clusters, or `method: time` and no row has a timestamp.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, cluster in enumerate(clusters):
        members[cluster].append(position)
    if len(members) < len(SIDES):
        raise SampleError(
            f"rows must form at least 3 clusters of twins to be split, got {len(members)} from {len(clusters)} rows. "
            "Collect more varied samples, check `group`, or raise split.near_duplicate_similarity."
        )
    if config.method == "time" and all(timestamp is None for timestamp in timestamps):
        raise SampleError(
            f"split.method must be content where rows have no timestamp, got 'time' for {len(clusters)} rows without "
            "one. Add a column `timestamp`, or choose split.method=content."
        )
    # The oldest row decides: it stays the same as the session grows, and so does the method.
    by_time = config.method == "time" or (config.method == "auto" and timestamps[0] is not None)
    if by_time:
        side_of = _sides_by_time(members, timestamps, config)
    else:
        side_of = _sides_by_content(sorted(members), config)
        if labels is not None and config.stratify:
            _keep_labels_everywhere(side_of, members, labels)
    sides = np.empty(len(clusters), dtype="<U10")
    for cluster, positions in members.items():
        sides[positions] = side_of[cluster]
    return Sides(
        sides=sides,
        method="time" if by_time else "content",
        warnings=_warnings(sides, members, side_of, config),
    )


def check_no_leak(sides: Mapping[str, pd.DataFrame]) -> None:
    """Raise `SampleError` if two of the named frames share a cluster."""
    for (first, first_rows), (second, second_rows) in combinations(sides.items(), 2):
        shared = set(first_rows["cluster"]) & set(second_rows["cluster"])
        if shared:
            raise SampleError(
                f"clusters must be on one side only, got {len(shared)} both in {first} and in {second}, for example "
                f"{min(shared)[:12]}. Split with split_rows or make_folds."
            )


def make_folds(
    train_rows: pd.DataFrame, n_splits: int, seed: int, *, by_time: bool = False
) -> list[Fold]:
    """Cut rows with a `cluster` column into folds of nearly equal size, clusters whole; `n_splits` 0 gives no fold.

    Rows with labels are stratified: each fold gets nearly as many rows of a label as any other. By time, the rows are
    cut into n_splits + 1 blocks, and each fold is trained on the blocks before the one that it is scored on.
    Augmented rows (those with a `parent_id`) are trained on with their parent and never scored.

    Raises:
        ConfigError: `n_splits` is 1, negative, or above the number of clusters (by time: clusters - 1).
    """
    if n_splits == 0:
        return []
    original = (
        train_rows["parent_id"].isna().to_numpy(bool)
        if "parent_id" in train_rows
        else np.ones(len(train_rows), bool)
    )
    clusters = train_rows["cluster"].to_numpy(dtype=object)
    sizes = Counter(clusters[original])
    most = len(sizes) - by_time
    if not 2 <= n_splits <= most:
        largest = (
            f"at most {most}, the number of clusters{' - 1' if by_time else ''},"
            if most > 1
            else "0"
        )
        rule = "at least 2" if n_splits < 2 else f"{largest} to cut these {len(train_rows)} rows"
        raise ConfigError(
            f"cross_validation.n_splits must be {rule}, got {n_splits}. "
            "Set it so, turn it off with 0, or collect more samples."
        )
    if by_time:
        oldest: dict[str, float] = {}
        for cluster, moment in zip(clusters, _moments(train_rows["timestamp"]), strict=True):
            oldest[cluster] = min(moment, oldest.get(cluster, moment))
        block_of = _blocks(sizes, oldest, n_splits + 1)
        block = np.array([block_of[cluster] for cluster in clusters])
        cuts = [(block < number, block == number) for number in range(1, n_splits + 1)]
    else:
        labels = (
            train_rows["label"]
            if "label" in train_rows
            else pd.Series([None] * len(train_rows), dtype=object)
        )
        label_of = dict(zip(clusters[original], labels[original], strict=True))
        fold_of = _balanced(dict(sorted(sizes.items())), label_of, n_splits, seed)
        fold = np.array([fold_of[cluster] for cluster in clusters])
        cuts = [(fold != number, fold == number) for number in range(n_splits)]
    folds = []
    for number, (kept, held_out) in enumerate(cuts):
        train = train_rows[kept].reset_index(drop=True)
        validation = train_rows[held_out & original].reset_index(drop=True)
        check_no_leak({"train": train, "validation": validation})
        folds.append(Fold(number=number, train=train, validation=validation))
    return folds


def _sides_by_content(clusters: Sequence[str], config: SplitConfig) -> dict[str, str]:
    intervals = _intervals(config)
    place = {cluster: _uniform(config.salt + cluster) for cluster in clusters}
    side_of = {cluster: _side(place[cluster], intervals) for cluster in clusters}
    for side, (low, high) in intervals.items():
        counts = Counter(side_of.values())
        if side in counts:
            continue
        spare = [cluster for cluster in clusters if counts[side_of[cluster]] > 1]
        nearest = min(spare, key=lambda key: (max(low - place[key], place[key] - high), key))
        side_of[nearest] = side
    return side_of


def _intervals(config: SplitConfig) -> dict[str, tuple[float, float]]:
    held_out = config.test_share + config.validation_share
    return {
        "test": (0.0, config.test_share),
        "validation": (config.test_share, held_out),
        "train": (held_out, 1.0),
    }


def _keep_labels_everywhere(
    side_of: dict[str, str], members: Mapping[str, list[int]], labels: Sequence[str | None]
) -> None:
    """Put a cluster on a held-out side that lacks its label, in place.

    Whether it goes there follows from the clusters that came before it, as if each was placed when it arrived: so none
    that root has learnt from becomes a test row as more come in.
    """
    placed: dict[str, Counter[str]] = defaultdict(Counter)
    for cluster in sorted(members, key=lambda each: members[each][0]):
        label = labels[members[cluster][0]]
        if label is None:
            continue
        before = placed[label]
        if side_of[cluster] == "train" and before["train"] and before.total() > 1:
            side_of[cluster] = next(
                (side for side in ("test", "validation") if not before[side]), "train"
            )
        before[side_of[cluster]] += 1


def _sides_by_time(
    members: Mapping[str, list[int]], timestamps: Sequence[str | None], config: SplitConfig
) -> dict[str, str]:
    moments = _moments(timestamps)
    oldest = {
        cluster: min(moments[position] for position in positions)
        for cluster, positions in members.items()
    }
    total = len(members)  # not rows: twins of old ones would move the cut back
    newest_first = sorted(members, key=lambda cluster: (oldest[cluster], cluster), reverse=True)
    side_of: dict[str, str] = {}
    has_validation = False
    for number, cluster in enumerate(newest_first):
        left = len(newest_first) - number
        if number == 0 or (number < config.test_share * total and left > 2):
            side = "test"
        elif not has_validation or (
            number < (config.test_share + config.validation_share) * total and left > 1
        ):
            side, has_validation = "validation", True
        else:
            side = "train"
            side_of.update(dict.fromkeys(newest_first[number:], side))
            break
        side_of[cluster] = side
    return side_of


def _moments(timestamps: Iterable[str | None]) -> list[float]:
    """Return times in seconds since 1970; an unknown one is that of the row before, before the first minus infinity.

    Times without a zone count as UTC.
    """
    moments, last = [], -math.inf
    for timestamp in timestamps:
        if timestamp is not None:
            moment = datetime.fromisoformat(timestamp)
            last = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        moments.append(last)
    return moments


def _blocks(sizes: Mapping[str, int], oldest: Mapping[str, float], blocks: int) -> dict[str, int]:
    """Return the block of each cluster: the oldest first, blocks of nearly equally many rows, none empty."""
    ordered = sorted(sizes, key=lambda cluster: (oldest[cluster], cluster))
    total, taken, block = sum(sizes.values()), 0, 0
    block_of = {}
    for number, cluster in enumerate(ordered):
        due = min(int(blocks * taken / total), blocks - 1)
        must = max(0, blocks - (len(ordered) - number))  # as many clusters as blocks are left
        block = max(min(due, block + 1), must) if number else 0
        block_of[cluster] = block
        taken += sizes[cluster]
    return block_of


def _side(place: float, intervals: Mapping[str, tuple[float, float]]) -> str:
    return next((side for side, (_, high) in intervals.items() if place < high), "train")


def _uniform(text: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the text; 53 bits, as many as a double holds."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _warnings(
    sides: npt.NDArray[np.str_],
    members: Mapping[str, list[int]],
    side_of: Mapping[str, str],
    config: SplitConfig,
) -> tuple[str, ...]:
    total = len(sides)
    wanted = {"test": config.test_share, "validation": config.validation_share}
    wanted["train"] = 1.0 - sum(wanted.values())
    warnings = []
    for side, share in wanted.items():
        actual = int((sides == side).sum()) / total
        # Four standard deviations of a draw row by row: what chance alone hardly ever does.
        if abs(actual - share) > 4.0 * (share * (1.0 - share) / total) ** 0.5:
            largest = max(
                len(positions) for cluster, positions in members.items() if side_of[cluster] == side
            )
            warnings.append(
                f"the {side} split holds {actual:.0%} of the rows instead of {share:.0%}; its largest "
                f"cluster of twins has {largest} rows."
            )
    return tuple(warnings)


def _balanced(
    sizes: Mapping[str, int], label_of: Mapping[str, str | None], n_splits: int, seed: int
) -> dict[str, int]:
    """Return the fold of each cluster: the largest first, each to the fold with the fewest rows of its label."""
    keys = list(sizes)
    shuffled = [keys[position] for position in np.random.default_rng(seed).permutation(len(keys))]
    totals = [0] * n_splits
    of_label: dict[str | None, list[int]] = defaultdict(lambda: [0] * n_splits)
    fold_of = {}
    for key in sorted(shuffled, key=lambda key: -sizes[key]):
        rows = of_label[label_of[key]]
        fold = min(range(n_splits), key=lambda number: (rows[number], totals[number]))
        fold_of[key] = fold
        rows[fold] += sizes[key]
        totals[fold] += sizes[key]
    return fold_of
