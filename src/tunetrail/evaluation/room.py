"""Room: whether a model leaves anything to improve on the examples that it is scored on."""

import numpy as np

from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.resampling import least_differing
from tunetrail.evaluation.scores import Scores

# Distance to the best value below which an example counts as perfect: that of float32.
_ROUNDING = 1e-6


def lack_of_room(scores: Scores, confidence: float) -> str | None:
    """Return in words why the examples can't show that another model is better; None if they can.

    An interval needs clusters on which the models differ, six at 95 %. If fewer have less than the
    best value, a better model can differ on fewer only.

    Args:
        scores: The scores of the model that is to be improved.
        confidence: The confidence of the interval.
    """
    metric = metric_named(scores.metric)
    if metric.best is None:
        return None
    if not metric.per_example:
        # A correlation belongs to all examples: a perfect one has no single row to improve.
        is_perfect = abs(metric.best - scores.value) <= _ROUNDING
        return f"already has the best {metric.name}, {metric.best:g}" if is_perfect else None

    cluster_names = np.arange(scores.examples) if scores.clusters is None else scores.clusters
    can_improve = np.abs(metric.best - scores.per_example[metric.name]) > _ROUNDING
    clusters = len(np.unique(cluster_names))
    improvable = len(np.unique(np.asarray(cluster_names)[can_improve]))
    needed = least_differing(confidence)
    if improvable >= needed:
        return None

    unit = "rows" if scores.clusters is None else "groups"
    return (
        f"already has the best {metric.name} on {clusters - improvable} of {clusters} test {unit}: "
        f"{improvable} can improve, and a {100.0 * confidence:.3g}% interval needs {needed}"
    )
