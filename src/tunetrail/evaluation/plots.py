"""Figures of a training, a comparison and its slices, for MLflow."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.metrics import metric_named
from tunetrail.reporting.charts import BLUE, GREY, TEXT, drawable, name_bars, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEARNING_RATE = "train/learning_rate"
"""The curve of the last panel."""

Curve = Sequence[tuple[int, float]]

# A curve of one point shows only by its marker; on a long curve markers blur the line.
_MOST_MARKED_POINTS = 50
_WIDTH = 7.0
_MOST_SLICES, _MOST_LABELS = 15, 20


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


def slices_figure(slices: pd.DataFrame, metric: str) -> "Figure":
    """Draw the improvement on the worst slices, with intervals that hold for all of them at once.

    Args:
        slices: Lines of `score_slices`, the worst first; at least one.
        metric: Name of the metric.
    """
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    shown = slices.head(_MOST_SLICES)
    figure = new_figure(0.9 + 0.3 * len(shown))
    axes = figure.subplots()
    names = shown["attribute"] + " = " + shown["value"] + shown["rows"].map(" ({:,})".format)

    axes.axvline(0.0, color=GREY, linestyle="--", linewidth=1)
    widths = (shown["corrected_upper"] - shown["improvement"]).fillna(0.0)
    positions = range(len(shown))
    axes.errorbar(shown["improvement"], positions, xerr=widths, fmt="o", color=BLUE, linewidth=2)
    name_bars(axes, names.tolist())
    # The common style is made for counts of rows.
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(f"improvement of {metric_named(metric).label}", **TEXT)
    return figure


def confusion_figure(confusion: pd.DataFrame) -> "Figure":
    """Draw which labels are predicted for which, for the labels with the most mistakes.

    Args:
        confusion: Counts of rows, [labels, predicted labels], with the same labels both ways.
    """
    import seaborn

    mistakes = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * np.diag(confusion)
    worst = mistakes.sort_values(ascending=False, kind="stable").index[:_MOST_LABELS]
    shown = confusion.loc[sorted(worst), sorted(worst)]
    names = list(map(drawable, shown.index))

    figure = new_figure(2.0 + 0.28 * len(shown))
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
