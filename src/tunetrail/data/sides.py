"""Sides: decides for each cluster of twins whether it is in the train, validation or test split.

A small cluster's side follows from its key, so rows keep their side when the session grows. If rows
have timestamps, the newest ones are held out instead. Nothing here depends on a seed.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from tunetrail.config import SplitConfig
from tunetrail.errors import SampleError

SIDES = ("train", "validation", "test")

# Share of the rows above which a cluster is large: on a held-out side it would outweigh others.
_LARGE_SHARE = 0.01
# The same in rows, since 1 % of a small session is an ordinary cluster.
_LARGE_ROWS = 10
# Share of the rows from which large clusters are worth a warning.
_NOTABLE_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The side of each row.

    Attributes:
        sides: Names of sides, [rows].
        method: How they were chosen, `content` or `time`.
        warnings: Sides that are far from their share, with the cause, and large clusters.
    """

    sides: npt.NDArray[np.str_]
    method: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Clusters:
    """The clusters of twins of a session.

    Attributes:
        members: The positions of the rows of each cluster, ascending.
        large: The clusters that are learnt from as a whole.
        labels: The label of each cluster's oldest row; None if rows have no labels to spread.
    """

    members: Mapping[str, Sequence[int]]
    large: frozenset[str]
    labels: Mapping[str, str | None] | None

    def rows(self, clusters: Iterable[str]) -> int:
        """Return the number of rows of some clusters."""
        return sum(len(self.members[cluster]) for cluster in clusters)


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
    otherwise in the train split. Large clusters, above 1 % of the rows, are in the train split
    instead, and the shares of the other clusters are larger to make up for it. The first cluster of
    a label is in the train split; a later one goes from there to a held-out side that lacks the
    label and is below its share. A side that would be empty takes the cluster whose u is nearest to
    its interval.

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
        session_clusters = _Clusters(members=members, large=frozenset(), labels=None)
        side_of = drawn = _sides_by_time(members, timestamps, config)
    else:
        large = _large_clusters(members, config)
        oldest_labels = None
        if labels is not None and config.stratify:
            oldest_labels = {cluster: labels[rows[0]] for cluster, rows in members.items()}
        session_clusters = _Clusters(members=members, large=large, labels=oldest_labels)
        side_of, drawn = _sides_by_content(session_clusters, config)

    # "validation" has ten letters.
    sides = np.empty(len(clusters), dtype="<U10")
    for cluster, positions in members.items():
        sides[positions] = side_of[cluster]
    return Sides(
        sides=sides, method=method, warnings=_warnings(session_clusters, side_of, drawn, config)
    )


def moments_of(timestamps: Iterable[str | None]) -> list[float]:
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


def _large_clusters(members: Mapping[str, Sequence[int]], config: SplitConfig) -> frozenset[str]:
    """Return the clusters that have too many rows for a held-out side.

    The limit rises from 1 % of the rows to the smaller held-out share as long as large clusters
    have more than half of the rows: a session of fifty equal groups has to be drawn from them.
    """
    rows = sum(map(len, members.values()))
    highest_limit = rows * min(config.test_share, config.validation_share)
    limit = max(rows * _LARGE_SHARE, float(_LARGE_ROWS))

    while True:
        large = frozenset(key for key, positions in members.items() if len(positions) > limit)
        large_rows = sum(len(members[cluster]) for cluster in large)
        if 2 * large_rows <= rows or limit >= highest_limit:
            return large
        limit = min(2.0 * limit, highest_limit)


def _shares_of_draw(large_share: float, config: SplitConfig) -> dict[str, float]:
    """Return the held-out shares of the clusters that aren't large.

    They give all rows their configured shares: rows of which 28 % are one cluster are split
    70/15/15, and not 52/38/10 as the draws happened to fall. But the train split gets at least half
    of its share of the small clusters too, or it would learn from nothing except a few large ones.
    """
    held_out = config.test_share + config.validation_share
    most_held_out = 1.0 - (1.0 - held_out) / 2.0
    scale = most_held_out / held_out
    if large_share < 1.0:
        scale = min(scale, 1.0 / (1.0 - large_share))
    return {"test": scale * config.test_share, "validation": scale * config.validation_share}


def _sides_by_content(
    clusters: _Clusters, config: SplitConfig
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the side of each cluster, and the side that its draw alone would give it."""
    keys = sorted(clusters.members)
    large_share = clusters.rows(clusters.large) / clusters.rows(keys)
    shares = _shares_of_draw(large_share, config)
    # The test side has the lowest draws, so a change of validation_share doesn't move its rows.
    held_out = shares["test"] + shares["validation"]

    draws = {cluster: _uniform(config.salt + cluster) for cluster in keys}
    drawn = {}
    for cluster, draw in draws.items():
        if cluster in clusters.large or draw >= held_out:
            drawn[cluster] = "train"
        else:
            drawn[cluster] = "test" if draw < shares["test"] else "validation"

    side_of, firsts = _spread_labels(drawn, clusters, shares)
    _fill_empty_sides(side_of, draws, shares, clusters.large | firsts)
    return side_of, drawn


def _fill_empty_sides(
    side_of: dict[str, str],
    draws: Mapping[str, float],
    shares: Mapping[str, float],
    fixed: frozenset[str],
) -> None:
    """Give an empty side the cluster whose draw is nearest to its interval, in place.

    A large cluster or the first one of its label, both in `fixed`, only moves if there is no other.
    """
    held_out = shares["test"] + shares["validation"]
    intervals = {
        "test": (0.0, shares["test"]),
        "validation": (shares["test"], held_out),
        "train": (held_out, 1.0),
    }
    for side, (low, high) in intervals.items():
        counts = Counter(side_of.values())
        if side in counts:
            continue

        distances = []
        for cluster, draw in draws.items():
            if counts[side_of[cluster]] > 1:
                distances.append((cluster in fixed, max(low - draw, draw - high), cluster))
        nearest = min(distances)[-1]
        side_of[nearest] = side


def _held_out_side_with_room(
    placed: Counter[str], shares: Mapping[str, float], sides_with_label: set[str]
) -> str | None:
    """Return a held-out side that lacks the label and is a cluster below its share, or None."""
    for side, share in shares.items():
        room = share * (placed.total() + 1) - placed[side]
        if side not in sides_with_label and room >= 1.0:
            return side
    return None


def _spread_labels(
    drawn: Mapping[str, str], clusters: _Clusters, shares: Mapping[str, float]
) -> tuple[dict[str, str], frozenset[str]]:
    """Return the side of each cluster, with each label on several sides if it has enough clusters.

    The second value is the set of the first clusters of each label. They are in the train split,
    because a label that nobody has learnt can't be scored. A later one moves from there to a
    held-out side that lacks the label and is below its share: with three rows a label, moving every
    third one would make a third of the rows test rows.

    Whether a cluster moves follows only from the clusters before it, as if each was placed when it
    arrived. So a cluster that root has learned from never becomes a test row as more rows come in.
    """
    side_of = dict(drawn)
    if clusters.labels is None:
        return side_of, frozenset()

    sides_of_label: dict[str, set[str]] = defaultdict(set)
    placed: Counter[str] = Counter()
    firsts = set()
    for cluster in sorted(clusters.members, key=lambda cluster: clusters.members[cluster][0]):
        label, side = clusters.labels[cluster], side_of[cluster]
        if cluster not in clusters.large and label is not None:
            sides = sides_of_label[label]
            if "train" not in sides:
                side = "train"
                firsts.add(cluster)
            elif side == "train":
                side = _held_out_side_with_room(placed, shares, sides) or side

        side_of[cluster] = side
        if label is not None:
            sides_of_label[label].add(side)
        # Only the small clusters share out the rows.
        if cluster not in clusters.large:
            placed[side] += 1
    return side_of, frozenset(firsts)


def _sides_by_time(
    members: Mapping[str, list[int]], timestamps: Sequence[str | None], config: SplitConfig
) -> dict[str, str]:
    """Return the side of each cluster from its age: the newest clusters are held out."""
    moments = np.array(moments_of(timestamps))
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


def _uniform(text: str) -> float:
    """Return a number in [0, 1) that depends only on the text, with the 53 bits of a double."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _warnings(
    clusters: _Clusters,
    side_of: Mapping[str, str],
    drawn: Mapping[str, str],
    config: SplitConfig,
) -> tuple[str, ...]:
    """Return a sentence on large clusters, and one for each side that is far from its share."""
    total = clusters.rows(clusters.members)
    shares = {"test": config.test_share, "validation": config.validation_share}
    shares["train"] = 1.0 - sum(shares.values())
    rows_by_side, drawn_rows_by_side = _rows_by_side(clusters, side_of, drawn)

    warnings = []
    large_rows = clusters.rows(clusters.large)
    if large_rows >= _NOTABLE_SHARE * total:
        subject = "cluster of near-duplicates has"
        if len(clusters.large) > 1:
            subject = f"{len(clusters.large)} clusters of near-duplicates have"
        warnings.append(
            f"the largest {subject} {large_rows} of {total} rows, which are all learnt from and "
            "never scored. If they differ in what matters, give them finer groups."
        )

    for side, share in shares.items():
        surplus = rows_by_side[side] - share * total
        # Four standard deviations of a draw row by row: chance alone hardly ever exceeds that.
        if abs(surplus) > 4.0 * (share * (1.0 - share) * total) ** 0.5:
            moved = rows_by_side[side] - drawn_rows_by_side[side]
            cause = _cause(clusters, side_of, side, surplus, moved)
            warnings.append(
                f"the {side} split has {rows_by_side[side] / total:.0%} of the rows instead of "
                f"{share:.0%}: {cause}"
            )
    return tuple(warnings)


def _rows_by_side(clusters: _Clusters, *assignments: Mapping[str, str]) -> tuple[Counter[str], ...]:
    """Return the number of rows on each side, for each assignment of clusters to sides."""
    counts: tuple[Counter[str], ...] = tuple(Counter() for _ in assignments)
    for cluster, positions in clusters.members.items():
        for side_of, rows_by_side in zip(assignments, counts, strict=True):
            rows_by_side[side_of[cluster]] += len(positions)
    return counts


def _cause(
    clusters: _Clusters, side_of: Mapping[str, str], side: str, surplus: float, moved: int
) -> str:
    """Return why a side is far from its share, and what helps.

    Args:
        clusters: The clusters.
        side_of: Their sides.
        side: The side.
        surplus: Rows of the side above its share; negative if rows are missing.
        moved: Rows that the spreading of labels brought to the side; negative if it took some.
    """
    # What explains at least half of the deviation is named as its cause.
    if clusters.labels is not None and 2.0 * moved / surplus >= 1.0:
        labels = Counter(filter(None, clusters.labels.values()))
        average = labels.total() / max(len(labels), 1)
        return (
            f"labels have only {average:.1f} different rows on average, and the first one of each "
            "label is learnt from. Collect more samples of each label."
        )

    largest = max(clusters.members, key=lambda cluster: (len(clusters.members[cluster]), cluster))
    rows = len(clusters.members[largest])
    # A large cluster explains a surplus on its own side, and a lack on the others.
    if (side_of[largest] == side) == (surplus > 0.0) and 2.0 * rows >= abs(surplus):
        return (
            f"one cluster of near-duplicates has {rows} rows, all in the {side_of[largest]} split. "
            "Give fewer rows the same `group`, or raise split.near_duplicate_similarity."
        )
    return (
        f"the rows form only {len(clusters.members)} clusters of near-duplicates, which stay "
        "whole. Collect more varied samples."
    )
