"""Pictures of the data report: rows by step and side, lengths, labels, reasons, privacy."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunetrail.data.report.report_data import ReportSection, rows_by_reason
from tunetrail.reporting.charts import (
    BLUE,
    INK,
    LIGHT_BLUE,
    MIDDLE_BLUE,
    RUST,
    TEXT,
    bar_chart,
    drawable,
    name_bars,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_LABELS = 30
"""Number of labels, the most common first, that get a bar of their own."""

_SHOWN_REASONS = 15
_NAME_CHARACTERS = 16
_UNCHANGED, _CHANGED, _SET_ASIDE = LIGHT_BLUE, BLUE, RUST
_SIDES = (BLUE, MIDDLE_BLUE, LIGHT_BLUE)
_BAR: Mapping[str, Any] = {"height": 0.6, "edgecolor": "white", "linewidth": 0.8}

# The pieces of a bar: rows and colour.
_Shares = list[tuple[int, str]]


def figures(section: ReportSection) -> dict[str, "Figure"]:
    """Return the figures of a section by name, without those that have nothing to show.

    The names are `rows` (by step and side), `lengths`, `labels`, `reasons` (of rows set aside) and
    `privacy`.
    """
    reasons = {}
    for (step, reason), positions in rows_by_reason(section.set_aside).items():
        reasons[f"{step}: {reason}"] = len(positions)

    drawn = {
        "rows": _draw_rows(section),
        "lengths": _draw_lengths(section),
        "labels": bar_chart(
            section.labels, limit=SHOWN_LABELS, noun="labels", unit="rows", colour=_CHANGED
        ),
        "reasons": bar_chart(
            reasons, limit=_SHOWN_REASONS, noun="reasons", unit="rows set aside", colour=_SET_ASIDE
        ),
        "privacy": bar_chart(
            section.privacy, limit=_SHOWN_REASONS, noun="types", unit="replaced", colour=_CHANGED
        ),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def finite_lengths(section: ReportSection) -> dict[str, NDArray[np.float64]]:
    """Return the finite lengths of the rows by unit, without units that have none."""
    finite = {}
    for unit, lengths in section.lengths.items():
        values = np.asarray(lengths, dtype=np.float64).ravel()
        values = values[np.isfinite(values)]
        if len(values):
            finite[unit] = values
    return finite


def _draw_rows(section: ReportSection) -> "Figure | None":
    """Draw one bar for each step and one for the sides, divided by what became of the rows."""
    bars: list[tuple[str, _Shares, str]] = []
    for step in section.account:
        unchanged = step.rows_out - step.changed
        shares = [(unchanged, _UNCHANGED), (step.changed, _CHANGED), (step.set_aside, _SET_ASIDE)]
        bars.append((step.step, shares, f"{step.rows_out:,} of {step.rows_in:,}"))
    if section.sides:
        # The sides share one bar, so their names are at its end instead of along the axis.
        names = []
        for side, rows in section.sides.items():
            names.append(f"{drawable(side, _NAME_CHARACTERS)} {rows:,}")
        sides = list(zip(section.sides.values(), _SIDES, strict=False))
        bars.append(("sides", sides, "\n".join(names)))

    totals = []
    for _, shares, _ in bars:
        totals.append(sum(rows for rows, _ in shares))
    if not any(totals):
        return None

    # In inches: the margins, a line for each bar, and more for the names of the sides.
    figure = new_figure(0.8 + 0.42 * len(bars) + (0.2 if section.sides else 0.0))
    axes = figure.subplots()
    for position, (_, shares, text) in enumerate(bars):
        _draw_stacked(axes, position, shares)
        x = totals[position] + 0.012 * max(totals)
        note = axes.text(x, position, text, va="center", **TEXT)
        # A long note may run over the edge, but never takes room from the bars.
        note.set_in_layout(False)

    name_bars(axes, [name for name, _, _ in bars])
    # The room at the right is for the notes.
    axes.set_xlim(0, 1.22 * max(totals))
    if section.account:
        _add_legend(figure, section)
    return figure


def _draw_stacked(axes: "Axes", position: int, shares: Sequence[tuple[int, str]]) -> None:
    left = 0
    for rows, colour in shares:
        if rows > 0:
            axes.barh(position, rows, left=left, color=colour, **_BAR)
        left += rows


def _add_legend(figure: "Figure", section: ReportSection) -> None:
    from matplotlib.patches import Patch

    # The legend explains only colours that the picture has.
    handles = [Patch(color=_UNCHANGED, label="unchanged")]
    if any(step.changed for step in section.account):
        handles.append(Patch(color=_CHANGED, label="changed"))
    if any(step.set_aside for step in section.account):
        handles.append(Patch(color=_SET_ASIDE, label="set aside"))

    style = {"ncols": 3, "frameon": False, "fontsize": 8, "labelcolor": INK}
    figure.legend(handles=handles, loc="outside upper left", **style)


def _draw_lengths(section: ReportSection) -> "Figure | None":
    lengths = finite_lengths(section)
    if not lengths:
        return None

    # At most two panels side by side; a last one without lengths is removed.
    columns = min(len(lengths), 2)
    lines = -(-len(lengths) // columns)
    figure = new_figure(2.6 * lines)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (unit, values) in zip(panels, lengths.items(), strict=False):
        _draw_histogram(axes, unit, values, section.max_length if unit == "tokens" else None)

    for axes in panels[len(lengths) :]:
        axes.remove()
    return figure


def _draw_histogram(
    axes: "Axes", unit: str, values: NDArray[np.float64], max_length: int | None
) -> None:
    # A few very long rows would press all others into one bar: the axis ends a little after the
    # 99 % quantile, or a little after max_length if that isn't far away.
    low = min(0.0, float(values.min()))
    high = max(1.15 * float(np.quantile(values, 0.99)), 1.0)
    is_far = max_length is not None and max_length > 4 * high
    if max_length is not None and not is_far:
        high = max(high, 1.1 * max_length)

    axes.hist(
        values, bins=40, range=(low, high), color=LIGHT_BLUE, edgecolor="white", linewidth=0.4
    )
    style_axes(axes)
    axes.set_xlim(low, high)
    axes.set_ylabel("rows", **TEXT)

    longer = int((values > high).sum())
    note = f" ({longer:,} longer, up to {values.max():,.0f})" if longer else ""
    axes.set_xlabel(f"{drawable(unit, _NAME_CHARACTERS)}{note}", **TEXT)

    if max_length is not None:
        _mark_limit(axes, max_length, is_far=is_far)


def _mark_limit(axes: "Axes", max_length: int, *, is_far: bool) -> None:
    """Draw max_length as a line, or as a dotted one at the right edge if it is far beyond it."""
    low, high = axes.get_xlim()
    position = high if is_far else float(max_length)
    axes.axvline(position, color=RUST, linewidth=1.4, linestyle=":" if is_far else "-")

    # The text goes to the side of the line that has more room.
    side = "right" if position - low > 0.5 * (high - low) else "left"
    axes.annotate(
        f"max_length {max_length:,}{' (further right)' if is_far else ''}",
        (position, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if side == "right" else 4, 0),
        textcoords="offset points",
        ha=side,
        va="bottom",
        fontsize=8,
        color=RUST,
    )
