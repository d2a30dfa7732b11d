"""Splits: gives each cluster of twins one side, train, validation or test, and one fold. Knows no seed but for folds.

A cluster's side is a pure function of its key, so rows keep their side when the session grows.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.config import SplitConfig
from tunetrail.data.duplicates import cluster_keys
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
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, JSON-serialisable."""
        sides = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "rows": {side: len(rows) for side, rows in sides.items()},
            "clusters": {side: int(rows["cluster"].nunique()) for side, rows in sides.items()},
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


def split_rows(rows: pd.DataFrame, config: SplitConfig) -> Split:
    """Split cleaned rows by cluster.

    With u in [0, 1) drawn from sha256(salt + cluster key), a cluster is in the test split if u < test_share, in the
    validation split if u < test_share + validation_share, else in the train split. A side that this leaves empty takes
    the one cluster whose u is nearest to the side's interval from a side that can spare it.

    Raises:
        SampleError: There are fewer than three clusters.
    """
    clusters = cluster_keys(rows, config.near_duplicate_similarity)
    side_of = _sides(sorted(set(clusters)), config, len(rows))
    framed = rows.assign(cluster=pd.Series(clusters, dtype=object, index=rows.index))
    side = np.array([side_of[cluster] for cluster in clusters])
    frames = {name: framed[side == name].reset_index(drop=True) for name in SIDES}
    check_no_leak(frames)
    return Split(
        train=frames["train"],
        validation=frames["validation"],
        test=frames["test"],
        warnings=_warnings(frames, config),
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


def make_folds(train_rows: pd.DataFrame, n_splits: int, seed: int) -> list[Fold]:
    """Cut rows with a `cluster` column into folds of nearly equal size, clusters whole; `n_splits` 0 gives no fold.

    Augmented rows (those with a `parent_id`) are trained on with their parent and never scored.

    Raises:
        ConfigError: `n_splits` is 1, negative, or above the number of clusters.
    """
    if n_splits == 0:
        return []
    original = (
        train_rows["parent_id"].isna().to_numpy(bool) if "parent_id" in train_rows else np.ones(len(train_rows), bool)
    )
    sizes = train_rows.loc[original, "cluster"].value_counts(sort=False).sort_index()
    if not 2 <= n_splits <= len(sizes):
        largest = f"at most {len(sizes)}, the number of clusters," if len(sizes) > 1 else "0"
        rule = "at least 2" if n_splits < 2 else f"{largest} to cut these {len(train_rows)} rows"
        raise ConfigError(
            f"cross_validation.n_splits must be {rule}, got {n_splits}. "
            "Set it so, turn it off with 0, or collect more samples."
        )
    fold_of = _balanced({str(key): int(size) for key, size in sizes.items()}, n_splits, seed)
    fold = np.array([fold_of[cluster] for cluster in train_rows["cluster"]])
    folds = []
    for number in range(n_splits):
        held_out = train_rows[(fold == number) & original].reset_index(drop=True)
        kept = train_rows[fold != number].reset_index(drop=True)
        check_no_leak({"train": kept, "validation": held_out})
        folds.append(Fold(number=number, train=kept, validation=held_out))
    return folds


def _sides(clusters: list[str], config: SplitConfig, row_count: int) -> dict[str, str]:
    if len(clusters) < len(SIDES):
        raise SampleError(
            f"rows must form at least 3 clusters of twins to be split, got {len(clusters)} from {row_count} rows. "
            "Collect more varied samples, check `group`, or raise split.near_duplicate_similarity."
        )
    held_out = config.test_share + config.validation_share
    intervals = {
        "test": (0.0, config.test_share),
        "validation": (config.test_share, held_out),
        "train": (held_out, 1.0),
    }
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


def _side(place: float, intervals: Mapping[str, tuple[float, float]]) -> str:
    return next((side for side, (_, high) in intervals.items() if place < high), "train")


def _uniform(text: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the text; 53 bits, as many as a double holds."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _warnings(frames: Mapping[str, pd.DataFrame], config: SplitConfig) -> tuple[str, ...]:
    total = sum(len(rows) for rows in frames.values())
    wanted = {"test": config.test_share, "validation": config.validation_share}
    wanted["train"] = 1.0 - sum(wanted.values())
    warnings = []
    for side, share in wanted.items():
        actual = len(frames[side]) / total
        # Four standard deviations of a draw row by row: what chance alone hardly ever does.
        if abs(actual - share) > 4.0 * (share * (1.0 - share) / total) ** 0.5:
            largest = frames[side]["cluster"].value_counts().iloc[0]
            warnings.append(
                f"the {side} split holds {actual:.0%} of the rows instead of {share:.0%}; its largest "
                f"cluster of twins has {largest} rows."
            )
    return tuple(warnings)


def _balanced(sizes: Mapping[str, int], n_splits: int, seed: int) -> dict[str, int]:
    """Return the fold of each cluster: the largest first, each to the fold that holds the fewest rows."""
    keys = list(sizes)
    shuffled = [keys[position] for position in np.random.default_rng(seed).permutation(len(keys))]
    totals = [0] * n_splits
    fold_of = {}
    for key in sorted(shuffled, key=lambda key: -sizes[key]):
        fold_of[key] = totals.index(min(totals))
        totals[fold_of[key]] += sizes[key]
    return fold_of
