"""Splits: cuts rows into the train, validation and test split, and the train split into folds.

No cluster of twins is ever cut. Only folds depend on a seed; `sides` decides about the sides.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.config import SplitConfig
from tunetrail.data.sides import SIDES, assign_sides, moments_of
from tunetrail.data.twins.duplicates import cluster_keys
from tunetrail.errors import ConfigError, SampleError


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows by side; no cluster is on two sides.

    Attributes:
        train: Rows to learn from, with a column `cluster` like the other sides.
        validation: Rows that choose the checkpoint.
        test: Rows that are scored once, at the end.
        method: `content` or `time`.
        warnings: Sides that are far from their share, with the cause, and large clusters.
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


def check_no_leak(sides: Mapping[str, pd.DataFrame]) -> None:
    """Raise `SampleError` if two of the named frames share a cluster."""
    for (first, first_rows), (second, second_rows) in combinations(sides.items(), 2):
        shared = set(first_rows["cluster"]) & set(second_rows["cluster"])
        if shared:
            raise SampleError(
                f"clusters must be in one split only, got {len(shared)} both in {first} and in "
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
        block_of = _blocks(sizes, _oldest_moments_of(train_rows), n_splits + 1)
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
    for fold_number, (is_trained, is_held_out) in enumerate(cuts):
        train = train_rows[is_trained].reset_index(drop=True)
        validation = train_rows[is_held_out & is_original].reset_index(drop=True)
        check_no_leak({"train": train, "validation": validation})
        folds.append(Fold(number=fold_number, train=train, validation=validation))
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


def _oldest_moments_of(rows: pd.DataFrame) -> dict[str, float]:
    """Return when the oldest row of each cluster was written, by cluster."""
    oldest: dict[str, float] = {}
    for cluster, moment in zip(rows["cluster"], moments_of(rows["timestamp"]), strict=True):
        oldest[cluster] = min(moment, oldest.get(cluster, moment))
    return oldest


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
