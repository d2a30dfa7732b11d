"""Pictures of a sweep: its jobs, what mattered, parallel coordinates and the Pareto front."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from tunetrail.reporting.charts import (
    BLUE,
    DARK_GREY,
    GREY,
    INK,
    LIGHT_BLUE,
    LIGHT_GREY,
    TEXT,
    drawable,
    name_bars,
    new_figure,
    pngs,
    style_axes,
)
from tunetrail.sweeps.job_words import shown_overrides
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.summary import SweepSummary
from tunetrail.sweeps.sweep_job import SweepJob

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_JOBS = 40
# Parameters with an axis of their own: those that come first in the order of importance.
_MOST_AXES = 7
_AXIS_CHARACTERS = 20
_MOST_CHOICES = 8


def sweep_pictures(summary: SweepSummary, study: SweepStudy) -> dict[str, bytes]:
    """Return the PNGs of a sweep by name, as far as its finished jobs allow them.

    They are `objective`, `importance`, `parallel` and, of two objectives, `front`.
    """
    figures = {}
    if summary.finished:
        figures["objective"] = objective_figure(summary)
    if len(summary.objectives) > 1 and summary.finished:
        figures["front"] = front_figure(summary)
    if summary.importances:
        figures["importance"] = importance_figure(summary)
    if len(summary.finished) > 1 and study.plan.space.parameters:
        figures["parallel"] = parallel_figure(summary, study)
    return pngs(figures)


def objective_figure(summary: SweepSummary) -> "Figure":
    """Draw the first objective of each finished job with its interval, the best job on top."""
    jobs = summary.finished[:_MOST_JOBS]
    figure = new_figure(0.8 + 0.26 * len(jobs))
    axes = figure.subplots()
    name_bars(axes, [_short_name(job) for job in jobs])
    for position, job in enumerate(jobs):
        colour = BLUE if job.number == summary.best else DARK_GREY
        if job.interval is not None:
            axes.plot(job.interval, [position, position], color=colour, linewidth=2)
        axes.plot([_first_value(job)], [position], "o", color=colour, markersize=5)

    _show_decimals(axes)
    hidden = len(summary.finished) - len(jobs)
    more = f", best {len(jobs)} of {len(summary.finished)} jobs" if hidden else ""
    axes.set_xlabel(f"{drawable(summary.labels[0])}{more}", **TEXT)
    return figure


def importance_figure(summary: SweepSummary) -> "Figure":
    """Draw the share of the objective's variance that each parameter explains."""
    names, shares = list(summary.importances), list(summary.importances.values())
    figure = new_figure(0.7 + 0.28 * len(names))
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), shares, height=0.7, color=BLUE)
    axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=3, **TEXT)
    name_bars(axes, list(map(_last_name, names)))
    _show_decimals(axes)
    axes.set_xlim(0.0, max(1.0, max(shares)) * 1.08)
    axes.set_xlabel("share of the variance", **TEXT)
    return figure


def parallel_figure(summary: SweepSummary, study: SweepStudy) -> "Figure":
    """Draw each finished job as a line over an axis for each parameter and the objective."""
    distributions = study.plan.space.distributions
    # What mattered comes first; without importances, the order in which it was typed.
    names = list(summary.importances or distributions)[:_MOST_AXES]
    params = {trial.number: trial.params for trial in study.optuna_study.get_trials(deepcopy=False)}
    jobs = summary.finished
    columns = []
    for name in names:
        values = [params[job.number][name] for job in jobs]
        columns.append(_ParameterAxis(distributions[name], values))
    objective = np.array(list(map(_first_value, jobs)))
    heights = np.column_stack([*(column.heights for column in columns), _scaled(objective)])

    figure = new_figure(3.6)
    axes = figure.subplots()
    positions = np.arange(len(names) + 1)
    # The best job is drawn last, on top of all.
    for index in reversed(range(len(jobs))):
        is_best, is_better_half = index == 0, index < math.ceil(len(jobs) / 2)
        colour = BLUE if is_best else LIGHT_BLUE if is_better_half else LIGHT_GREY
        width = 2.5 if is_best else 1.0
        axes.plot(positions, heights[index], color=colour, linewidth=width, zorder=2 + is_best)

    for position, column in enumerate(columns):
        _draw_axis(axes, position, column.ticks)
    lowest, highest = float(objective.min()), float(objective.max())
    _draw_axis(axes, len(names), [(0.0, f"{lowest:.4g}"), (1.0, f"{highest:.4g}")])
    titles = [*map(_last_name, names), summary.labels[0]]
    axes.set_xticks(positions, [drawable(title, _AXIS_CHARACTERS) for title in titles], **TEXT)
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_xlim(-0.35, len(names) + 0.35)
    return figure


def front_figure(summary: SweepSummary) -> "Figure":
    """Draw the first two objectives of each finished job, and join the ones on the front."""
    figure = new_figure(3.6)
    axes = figure.subplots()
    on_front = []
    for job in summary.finished:
        first, second = (job.values or ())[:2]
        is_on_front = job.number in summary.front
        axes.plot([first], [second], "o", color=BLUE if is_on_front else GREY, markersize=6)
        axes.annotate(
            str(job.number), (first, second), xytext=(5, 4), textcoords="offset points", **TEXT
        )
        if is_on_front:
            on_front.append((first, second))

    axes.plot(*zip(*sorted(on_front), strict=True), color=BLUE, linewidth=1, zorder=1)
    style_axes(axes)
    _show_decimals(axes)
    axes.set_xlabel(_label_with_direction(summary, 0), **TEXT)
    axes.set_ylabel(_label_with_direction(summary, 1), **TEXT)
    return figure


def _label_with_direction(summary: SweepSummary, index: int) -> str:
    better = "higher" if summary.objectives[index].higher_is_better else "lower"
    return f"{drawable(summary.labels[index])} ({better} is better)"


class _ParameterAxis:
    """An axis of the parallel coordinates: where values stand on it, and what is written there.

    Args:
        distribution: The values that the parameter can take.
        values: Its value in each job.
    """

    def __init__(self, distribution: BaseDistribution, values: Sequence[float | str]) -> None:
        if isinstance(distribution, CategoricalDistribution):
            choices = list(distribution.choices)
            indices = np.array([float(choices.index(value)) for value in values])
            self.heights = indices / max(len(choices) - 1, 1)
            shown = choices if len(choices) <= _MOST_CHOICES else [choices[0], choices[-1]]
            steps = np.linspace(0.0, 1.0, len(shown)) if len(shown) > 1 else [0.0]
            self.ticks = [(float(step), str(name)) for step, name in zip(steps, shown, strict=True)]
            return

        decimals = np.array(values, dtype=np.float64)
        is_log = getattr(distribution, "log", False)
        self.heights = _scaled(np.log(decimals) if is_log else decimals)
        lowest, highest = decimals.min(), decimals.max()
        self.ticks = [(0.0, f"{lowest:.3g}"), (1.0, f"{highest:.3g}")]


def _scaled(values: np.ndarray) -> np.ndarray:
    """Return values between 0 and 1; the middle if all are equal."""
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0.0 else np.full(len(values), 0.5)


def _draw_axis(axes: "Axes", position: int, ticks: Sequence[tuple[float, str]]) -> None:
    """Draw a vertical axis, with a text at some of its heights."""
    axes.plot([position, position], [0.0, 1.0], color=INK, linewidth=1, zorder=4)
    for height, text in ticks:
        label = drawable(text, _AXIS_CHARACTERS)
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
        axes.annotate(
            label,
            (position, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            bbox=box,
            zorder=5,
            **TEXT,
        )


def _short_name(job: SweepJob) -> str:
    """Return a job's number and what was swept, by the last names of the keys."""
    return f"{job.number}: {', '.join(shown_overrides(job))}"


def _last_name(key: str) -> str:
    """Return a key without the sections before its last name."""
    return key.rpartition(".")[2]


def _first_value(job: SweepJob) -> float:
    assert job.values is not None, "only finished jobs are drawn"
    return job.values[0]


def _show_decimals(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(ScalarFormatter(useOffset=False))
