"""Pictures of a training's report: curves, intervals, confused labels, and the map of the rows.

All are half as wide as a page, so that a telephone shows their letters large enough to read.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tunetrail.evaluation.error_analysis import label_confusion, row_changes
from tunetrail.evaluation.metrics import is_metric, metric_named
from tunetrail.evaluation.plots import Curve, confusion_figure, slices_figure
from tunetrail.evaluation.report.run_report import ModelReport
from tunetrail.evaluation.report.tables import (
    BROKEN,
    FIXED,
    RIGHT,
    WRONG,
    fold_lines,
    map_groups,
)
from tunetrail.reporting.charts import (
    BLUE,
    DARK_GREY,
    GREY,
    INK,
    LIGHT_BLUE,
    RUST,
    TEXT,
    IntervalLine,
    drawable,
    interval_chart,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.1
"""Inches; a page has two pictures side by side, a telephone one below the other."""

_MOST_LABELS = 12
_MOST_SESSIONS = 12
_NAME_CHARACTERS = 22
# Areas in square points.
_POINT, _LARGE_POINT = 12, 30
_MOST_MARKED_POINTS = 40
_GROUP_COLOURS = ("#1f5fa8", "#d9822b", "#3c8d5a", "#8e5ea2", "#c2405a", "#4aa3a2", "#8c6d3f")
# What changed lies above what stayed.
_OUTCOME_COLOURS = {RIGHT: LIGHT_BLUE, WRONG: DARK_GREY, FIXED: BLUE, BROKEN: RUST}


def report_figures(report: ModelReport) -> dict[str, "Figure"]:
    """Return the pictures of a model type by name, without those that have nothing to show.

    The names are `losses`, `monitor`, `folds`, `slices`, `forgetting`, `confusion`,
    `map_before` and `map_after`.
    """
    figures = {**_curve_figures(report), **_map_figures(report)}
    metric = metric_named(report.comparison.metric).label

    folds = []
    for line in fold_lines(report):
        folds.append(IntervalLine(line.name, line.improvement, line.lower, line.upper))
    if folds:
        label = f"improvement of {metric}, 95 % interval"
        figures["folds"] = interval_chart(folds, label, width=WIDTH)

    if report.slices is not None and len(report.slices):
        figures["slices"] = slices_figure(report.slices, report.comparison.metric, width=WIDTH)

    sessions = []
    for name, change in report.forgetting.items():
        sessions.append(IntervalLine(name, change.improvement, change.lower, change.upper))
    if sessions:
        label = f"improvement of {metric}, with its interval"
        figures["forgetting"] = interval_chart(sessions[:_MOST_SESSIONS], label, width=WIDTH)

    confusion = None if report.rows is None else label_confusion(report.rows)
    if confusion is not None and len(confusion):
        figures["confusion"] = confusion_figure(confusion, most_labels=_MOST_LABELS, width=WIDTH)
    return figures


def _curve_figures(report: ModelReport) -> dict[str, "Figure"]:
    """Draw the losses, and the metric that chose the weights, with the chosen step marked."""
    training = report.steps.get("training", {})
    history: Mapping[str, Curve] = training.get("history", {})
    monitor, best_step = training.get("monitor", "val/loss"), training.get("best_step")

    figures = {}
    losses = {name: history[name] for name in ("train/loss", "val/loss") if history.get(name)}
    if losses:
        # What is measured per byte is learnt per token; other losses, of preferences too, are not.
        is_per_token = metric_named(report.comparison.metric).weight == "bytes"
        label = "loss (nats per token)" if is_per_token else "loss"
        figures["losses"] = _curves_figure(losses, label, best_step)
    if monitor != "val/loss" and history.get(monitor):
        name = monitor.removeprefix("val/")
        curves = {"validation": history[monitor]}
        figures["monitor"] = _curves_figure(curves, _metric_label(name), best_step)
    return figures


def _metric_label(name: str) -> str:
    # A user's own callback may log any value.
    if not is_metric(name):
        return drawable(name)
    metric = metric_named(name)
    return f"{metric.label} ({'higher' if metric.higher_is_better else 'lower'} is better)"


def _curves_figure(curves: Mapping[str, Curve], label: str, best_step: int | None) -> "Figure":
    figure = new_figure(2.5, WIDTH)
    axes = figure.subplots()
    colours = (GREY, BLUE) if len(curves) > 1 else (BLUE,)
    names = {"train/loss": "training", "val/loss": "validation"}
    for (name, curve), colour in zip(curves.items(), colours, strict=False):
        steps, values = np.array(curve, dtype=np.float64).reshape(-1, 2).T
        # Infinity would stretch the axis; NaN leaves a gap.
        values[~np.isfinite(values)] = np.nan
        marker = "." if len(curve) <= _MOST_MARKED_POINTS else ""
        axes.plot(steps, values, marker=marker, color=colour, label=names.get(name, name))

    style_axes(axes)
    if best_step is not None:
        chosen = f"step {best_step:,} chosen"
        axes.axvline(best_step, color=RUST, linestyle="--", linewidth=1, label=chosen)
    axes.set_xlabel("optimizer step", **TEXT)
    axes.set_ylabel(label, **TEXT)
    axes.margins(y=0.12)
    _add_legend(figure, axes)
    return figure


def _add_legend(figure: "Figure", axes: "Axes", columns: int = 3) -> None:
    """Put the legend above the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    style: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": INK}
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, **style)


def _map_figures(report: ModelReport) -> dict[str, "Figure"]:
    """Draw the rows of the test side in the plane, before and after."""
    embedding_map = report.embedding_map
    if embedding_map is None:
        return {}

    changes = None if report.rows is None else row_changes(report.rows).table
    grouped = map_groups(report, changes)
    table = embedding_map.table
    names = pd.Series("test rows", table.index)
    if grouped is not None:
        names = table["row_id"].map(grouped[1]).fillna("unknown")

    shares = {"before": embedding_map.before_share, "after": embedding_map.after_share}
    # Equal axes: how far the rows are spread is what the two pictures are compared by.
    coordinates = table[["before_x", "before_y", "after_x", "after_y"]].to_numpy()
    limit = 1.08 * float(np.abs(coordinates).max()) or 1.0
    figures = {}
    for moment, share in shares.items():
        points = table[[f"{moment}_x", f"{moment}_y"]].to_numpy()
        axis = f"principal components, {100.0 * share:.0f} % of the variance"
        figures[f"map_{moment}"] = _scatter_figure(points, names, limit, axis)
    return figures


def _scatter_figure(points: Any, names: pd.Series, limit: float, axis: str) -> "Figure":
    """Draw points in the colours of their groups, the same in each picture of the same groups."""
    colours = _group_colours(names)
    hidden = names.nunique() - len(colours)
    if hidden:
        # Below the others, since they are drawn in this order.
        summary = f"{hidden} others"
        names = names.where(names.isin(list(colours)), summary)
        colours = {summary: GREY, **colours}

    figure = new_figure(4.2, WIDTH)
    axes = figure.subplots()
    for name, colour in colours.items():
        x, y = points[(names == name).to_numpy()].T
        label = drawable(name, _NAME_CHARACTERS)
        # A few rows that changed have to be seen among hundreds that didn't.
        size = _LARGE_POINT if name in (FIXED, BROKEN) else _POINT
        axes.scatter(x, y, s=size, color=colour, linewidths=0, alpha=0.75, label=label)

    style_axes(axes)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
    axes.set_xlabel(axis, **TEXT)
    _add_legend(figure, axes, columns=2)
    return figure


def _group_colours(names: pd.Series) -> dict[str, str]:
    """Return the colour of each group that has one: of all outcomes, or of the largest groups."""
    counts = names.value_counts()
    if set(counts.index) <= set(_OUTCOME_COLOURS):
        return {name: colour for name, colour in _OUTCOME_COLOURS.items() if name in counts.index}
    return dict(zip(map(str, counts.index), _GROUP_COLOURS, strict=False))


def alternative_texts(figures: Sequence[str], report: ModelReport) -> dict[str, str]:
    """Return for each picture what it shows, for readers who don't see it."""
    metric = metric_named(report.comparison.metric).label
    texts = {
        "losses": "Training and validation loss over the optimizer steps",
        "monitor": "The monitored metric of the validation over the optimizer steps",
        "folds": f"Improvement of {metric} over the base model in each fold, with intervals",
        "slices": f"Improvement of {metric} on the worst slices, with intervals",
        "forgetting": f"Change of {metric} on rows of each session, with intervals",
        "confusion": "How often each label is predicted for each label",
        "map_before": "Test rows in two dimensions before the training",
        "map_after": "Test rows in two dimensions after the training",
    }
    return {name: texts[name] for name in figures}
