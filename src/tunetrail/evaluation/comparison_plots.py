"""Pictures of a comparison of models: the interval of each pair, and the mean ranks."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tunetrail.evaluation.model_comparison import ModelComparison
from tunetrail.reporting.charts import (
    BLUE,
    GREY,
    INK,
    TEXT,
    drawable,
    name_bars,
    new_figure,
    pngs,
)
from tunetrail.reporting.readable import readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Pairs that are drawn: ten models have as many.
_MOST_PAIRS = 45
# Characters of each of the two names of a pair.
_PAIR_CHARACTERS = 16
# Height of a line with a model's name, in inches.
_STEP = 0.24


def comparison_pictures(comparison: ModelComparison) -> dict[str, bytes]:
    """Return the PNGs of a comparison by name: `pairs` and, of ranks, `critical_difference`."""
    figures = {"pairs": pairs_figure(comparison)}
    if comparison.rank_test is not None:
        figures["critical_difference"] = critical_difference_figure(comparison)
    return pngs(figures)


def pairs_figure(comparison: ModelComparison) -> "Figure":
    """Draw the improvement of each pair with its interval, next to a line at no change."""
    pairs = comparison.pairs[:_MOST_PAIRS]
    figure = new_figure(1.0 + 0.34 * len(pairs))
    axes = figure.subplots()
    # Both names are cut, or a long first one would hide the second.
    lengths = (_PAIR_CHARACTERS, _PAIR_CHARACTERS)
    names = []
    for pair in pairs:
        first, second = map(readable, (pair.first, pair.second), lengths)
        names.append(f"{first} to {second}")
    name_bars(axes, names)
    axes.axvline(0.0, color=GREY, linestyle="--", linewidth=1)

    for position, pair in enumerate(pairs):
        lower, upper = pair.comparison.lower, pair.comparison.upper
        colour = INK if pair.better is None else BLUE
        if lower is not None and upper is not None:
            axes.plot([lower, upper], [position, position], color=colour, linewidth=2)
        axes.plot([pair.comparison.improvement], [position], "o", color=colour, markersize=5)

    # Differences are no whole numbers, as the bars of this style are.
    _show_decimals(axes)
    level = f"{100.0 * comparison.confidence:.3g}%"
    metric = comparison.metric_in_words.partition(",")[0]
    axes.set_xlabel(f"improvement of {drawable(metric)}, {level} interval", **TEXT)
    return figure


def critical_difference_figure(comparison: ModelComparison) -> "Figure":
    """Draw the models at their mean ranks, with a bar over those that can't be told apart.

    The picture of Demsar (2006, figure 1): the best is on the left, and the line at the top is as
    long as the critical difference.
    """
    test = comparison.rank_test
    if test is None:
        raise ValueError("comparison must have a rank_test, got none.")
    names = [model.name for model in comparison.models]
    order = sorted(range(len(names)), key=test.mean_ranks.__getitem__)
    ranks = [test.mean_ranks[model] for model in order]
    bars = list(_bars(ranks, test.critical_difference))

    # The axis is at height 0; names hang below the bars, half of them on each side.
    on_left = (len(names) + 1) // 2
    lowest = len(bars) + on_left + 1
    figure = new_figure(1.1 + _STEP * (lowest + 1))
    axes = figure.subplots()
    _draw_axis(axes, len(names), test.critical_difference)
    for level, (first, last) in enumerate(bars, 1):
        ends = [ranks[first] - 0.03, ranks[last] + 0.03]
        axes.plot(ends, [-level, -level], color=BLUE, linewidth=4, solid_capstyle="butt")

    width = len(names) - 1.0
    for position, model in enumerate(order):
        is_left = position < on_left
        # The outermost name stands highest, so that no line crosses another.
        line = position if is_left else len(names) - 1 - position
        height = -(len(bars) + 1.0 + line)
        edge = 1.0 - 0.1 * width if is_left else len(names) + 0.1 * width
        axes.plot([ranks[position]] * 2 + [edge], [0.0, height, height], color=INK, linewidth=1)

        text = f"{drawable(names[model], 24)}  {ranks[position]:.2f}"
        anchor = "right" if is_left else "left"
        shift = -0.02 * width if is_left else 0.02 * width
        axes.text(edge + shift, height, text, ha=anchor, va="center", **TEXT)

    axes.set_ylim(-lowest - 0.5, 2.6)
    axes.set_xlim(1.0 - 0.75 * width, len(names) + 0.75 * width)
    return figure


def _bars(ranks: Sequence[float], critical_difference: float) -> Iterator[tuple[int, int]]:
    """Yield first and last positions of the longest runs of ranks that are nearer than critical."""
    covered = 0
    for first in range(len(ranks)):
        near = [rank - ranks[first] < critical_difference for rank in ranks[first:]]
        last = first + sum(near) - 1
        # A run within one that was drawn says nothing new.
        if last > max(first, covered):
            covered = last
            yield first, last


def _draw_axis(axes: "Axes", models: int, critical_difference: float) -> None:
    """Draw the axis of ranks, and the critical difference above it."""
    axes.set_axis_off()
    axes.plot([1, models], [0, 0], color=INK, linewidth=1)
    for rank in range(1, models + 1):
        axes.plot([rank, rank], [0, 0.25], color=INK, linewidth=1)
        axes.text(rank, 0.4, str(rank), ha="center", va="bottom", **TEXT)

    # It may be longer than the axis, if there are few rows.
    end = 1.0 + critical_difference
    axes.plot([1.0, min(end, 1.6 * models)], [1.6, 1.6], color=GREY, linewidth=2)
    label = f"critical difference {critical_difference:.2f}"
    axes.text(1.0, 1.8, label, ha="left", va="bottom", **TEXT)


def _show_decimals(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(ScalarFormatter())
