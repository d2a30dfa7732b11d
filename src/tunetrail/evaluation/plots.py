"""Figures of a training, a comparison and its slices, for MLflow."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.slices import EMBEDDING_CLUSTER
from tunetrail.reporting.charts import (
    PAGE_WIDTH,
    TEXT,
    IntervalLine,
    drawable,
    interval_chart,
    new_figure,
)
from tunetrail.reporting.readable import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEARNING_RATE = "train/learning_rate"
"""The curve of the last panel."""

Curve = Sequence[tuple[int, float]]

# A curve of one point shows only by its marker; on a long curve markers blur the line.
_MOST_MARKED_POINTS = 50
_WIDTH = 7.0
MOST_SLICES = 12
"""Slices in a picture or a table."""
_MOST_LABELS = 20
_SLICE_CHARACTERS = 38


def learning_curve_figure(history: Mapping[str, Curve], title: str) -> "Figure":
    """Draw curves over training steps.

    Args:
        history: Points (step, value) by name, for example `train/loss` and `val/loss`. Further
            metrics of the validation and the curve `train/learning_rate` get a small panel each;
            other curves are left out. Values that are not finite leave a gap.
        title: Shown above the figure.
    """
    losses, metrics = {}, {}
    for name, curve in history.items():
        if name.endswith("/loss"):
            losses[name] = curve
        elif name.startswith("val/"):
            metrics[name] = curve

    panels: dict[str, dict[str, Curve]] = {"loss": losses}
    if metrics:
        panels["metric"] = metrics
    if LEARNING_RATE in history:
        panels["learning rate"] = {LEARNING_RATE: history[LEARNING_RATE]}

    figure = new_figure(3.2 + 1.3 * (len(panels) - 1), _WIDTH)
    # The losses have the large panel at the top.
    heights = [3] + [1] * (len(panels) - 1)
    rows = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)
    for (label, curves), axes in zip(panels.items(), rows[:, 0], strict=True):
        _draw_curves(axes, curves, label)
    rows[-1, 0].set_xlabel("step")
    figure.suptitle(title)
    return figure


def rate_figure(curve: Sequence[tuple[float, float]], chosen: float) -> "Figure":
    """Draw the losses of a learning-rate range test, and the rate that was chosen.

    Args:
        curve: Learning rates in ascending order, with their smoothed losses.
        chosen: The learning rate chosen.
    """
    figure = new_figure(3.5, _WIDTH)
    axes = figure.subplots()
    axes.set_xscale("log")
    rates, losses = zip(*curve, strict=True)
    axes.plot(rates, losses)
    axes.axvline(chosen, color="C1", linestyle="--", linewidth=1, label=f"chosen: {chosen:.2g}")

    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)
    return figure


def comparison_figure(comparison: Comparison) -> "Figure":
    """Draw the metric before and after, and the improvement's interval next to no change."""
    figure = new_figure(3.2, _WIDTH)
    left, right = figure.subplots(1, 2)

    direction = "higher" if comparison.higher_is_better else "lower"
    label = metric_named(comparison.metric).label
    bars = left.bar(["before", "after"], [comparison.before, comparison.after], color=["0.7", "C0"])
    left.bar_label(bars, fmt="%.4g")
    left.margins(y=0.15)
    left.set_title(f"{label} ({direction} is better)", fontsize="medium")

    right.axvline(0.0, color="0.5", linestyle="--", linewidth=1)
    right.plot([comparison.improvement], [0], "o", color="C0")
    interval = comparison.interval_in_words
    if comparison.lower is not None and comparison.upper is not None:
        right.plot([comparison.lower, comparison.upper], [0, 0], color="C0", linewidth=2)
        bounds = f"[{comparison.lower:.4g}, {comparison.upper:.4g}]"
        interval = f"{100.0 * comparison.confidence:.3g}% interval {bounds}"
    right.set_yticks([])
    right.set_xlabel(f"{interval}, {comparison.examples} examples", fontsize="small")
    right.set_title(f"improvement {comparison.improvement:+.4g}", fontsize="medium")
    return figure


def slices_figure(slices: pd.DataFrame, metric: str, *, width: float = PAGE_WIDTH) -> "Figure":
    """Draw the improvement on the worst slices, with intervals that hold for all of them at once.

    Args:
        slices: Lines of `score_slices`, the worst first; at least one.
        metric: Name of the metric.
        width: Of the figure, in inches.
    """
    intervals = []
    for line in slices.head(MOST_SLICES).to_dict("records"):
        # Cut before the number of rows, which a long value must not push out of the picture.
        name = readable(slice_name(line["attribute"], str(line["value"])), _SLICE_CHARACTERS)
        half_width = line["corrected_upper"] - line["improvement"]
        lower = upper = None
        if np.isfinite(half_width):
            lower, upper = line["improvement"] - half_width, line["corrected_upper"]
        counted_name = f"{name} ({line['rows']:,} rows)"
        intervals.append(IntervalLine(counted_name, line["improvement"], lower, upper))
    return interval_chart(
        intervals,
        f"improvement of {metric_named(metric).label}, intervals for all slices",
        width=width,
    )


def slice_name(attribute: str, value: str) -> str:
    """Return a slice as people call it: `source = web`, or `texts near row 384`."""
    if attribute == EMBEDDING_CLUSTER:
        # A file of slices may hold numbers with decimals.
        return f"texts near row {value.removesuffix('.0')}"
    return f"{attribute} = {value}"


def confusion_figure(
    confusion: pd.DataFrame, *, most_labels: int = _MOST_LABELS, width: float = PAGE_WIDTH
) -> "Figure":
    """Draw which labels are predicted for which, for the labels with the most mistakes.

    Args:
        confusion: Counts of rows, [labels, predicted labels], with the same labels both ways.
        most_labels: Number of labels that are shown.
        width: Of the figure, in inches.
    """
    import seaborn

    mistakes = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * np.diag(confusion)
    worst = mistakes.sort_values(ascending=False, kind="stable").index[:most_labels]
    shown = confusion.loc[sorted(worst), sorted(worst)]
    # Names take at most half of the figure.
    longest = int(5.0 * width)
    names = [drawable(name, longest) for name in shown.index]

    figure = new_figure(2.0 + 0.28 * len(shown), width)
    axes = figure.subplots()
    seaborn.heatmap(
        shown,
        ax=axes,
        annot=True,
        fmt="d",
        cmap="Blues",
        cbar=False,
        annot_kws={"fontsize": 7},
        xticklabels=names,
        yticklabels=names,
    )
    axes.tick_params(labelsize=7)
    axes.tick_params(axis="y", labelrotation=0)
    axes.set_xlabel("predicted label", **TEXT)
    axes.set_ylabel("label", **TEXT)
    return figure


def _draw_curves(axes: "Axes", curves: Mapping[str, Curve], label: str) -> None:
    for name, curve in curves.items():
        steps, values = np.array(curve, dtype=np.float64).reshape(-1, 2).T
        # Infinity would stretch the axis; NaN leaves a gap.
        values[~np.isfinite(values)] = np.nan
        marker = "." if len(curve) <= _MOST_MARKED_POINTS else ""
        axes.plot(steps, values, marker=marker, label=name.replace("_", " "))

    axes.set_ylabel(label)
    # A metric has to be named, since its axis doesn't say which it is.
    if len(curves) > 1 or label == "metric":
        axes.legend(frameon=False)
