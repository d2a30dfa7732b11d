"""Resamples of whole clusters, and on how many of them two models have to differ."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.stats import norm, t

from tunetrail.evaluation.metric import Array, Floats
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.scores import Scores

# Counts of drawn clusters held at a time: few enough for the processor's cache.
_CELLS_AT_ONCE = 300_000
# Resamples drawn at a time even of many clusters: ranks are counted for eight at once.
_LEAST_HEIGHT = 8
# Share of what changed in a cluster below which its changes cancel out.
_ROUNDING = 1e-9


def least_differing(confidence: float) -> int:
    """Return how many clusters have to differ for an interval: 6 at 95 %.

    With fewer, all that differ agree by chance too often: in 2 of 2^k cases.
    """
    return math.ceil(math.log2(2.0 / (1.0 - confidence)))


def cluster_index(scores: Scores) -> Array:
    """Return the cluster of each example as an index from 0; without clusters, the example's own.

    Shape: [examples].
    """
    if scores.clusters is None:
        return np.arange(scores.examples)
    _, cluster_of = np.unique(np.asarray(scores.clusters), return_inverse=True)
    return cluster_of


def differing_clusters(before: Scores, after: Scores, cluster_of: Array) -> int:
    """Return the number of clusters on which the two models differ.

    A cluster whose changes cancel out speaks for neither model and doesn't count.
    """
    differs = np.zeros(int(cluster_of.max()) + 1, dtype=bool)
    for name in metric_named(after.metric).reads:
        change = after.per_example[name] - before.per_example[name]
        net_change = np.bincount(cluster_of, weights=change)
        differs |= np.abs(net_change) > _ROUNDING * np.bincount(cluster_of, weights=np.abs(change))
    return int(differs.sum())


def resampled_differences(
    before: Scores, after: Scores, cluster_of: Array, samples: int, seed: int
) -> Floats:
    """Return `after - before` on each resample of whole clusters, [samples]."""
    metric = metric_named(after.metric)
    old, new = (metric.resampler(scores.per_example, cluster_of) for scores in (before, after))

    # The same draw for both models: what makes an example hard for both cancels out.
    clusters = int(cluster_of.max()) + 1
    differences = []
    # Each model on a core of its own: NumPy lets other threads run while it computes.
    with ThreadPoolExecutor(max_workers=1) as second_core:
        for counts in drawn_counts(clusters, samples, seed):
            old_values = second_core.submit(old, counts)
            differences.append(new(counts) - old_values.result())
    return np.concatenate(differences)


def drawn_counts(clusters: int, samples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks of resamples as counts of each cluster, [resamples, clusters]."""
    generator = np.random.default_rng(seed)
    # In blocks: all at once may not fit into memory.
    height = max(_LEAST_HEIGHT, _CELLS_AT_ONCE // clusters)
    for start in range(0, samples, height):
        block = min(height, samples - start)
        drawn = generator.integers(clusters, size=(block, clusters), dtype=np.uint32)

        # Each resample counts in a range of its own, so that a single call counts the block.
        cells = drawn.astype(np.int64) + clusters * np.arange(block)[:, np.newaxis]
        counts = np.bincount(cells.ravel(), minlength=block * clusters)
        yield counts.reshape(block, clusters).astype(np.float64)


def expanded_tail(confidence: float, examples: float) -> float:
    """Return the share of resamples to leave out on each side, for the expanded interval."""
    # As wide as Student's t interval would be: the bootstrap's own is too narrow by the factor
    # sqrt((n - 1) / n), and has the normal's tails.
    quantile = t.ppf((1.0 - confidence) / 2.0, examples - 1)
    return float(norm.cdf(math.sqrt(examples / (examples - 1)) * quantile))
