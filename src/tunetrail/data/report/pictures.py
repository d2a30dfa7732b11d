"""Pictures: what became of a session's rows, drawn on canvases of their own. Knows no files, no HTML, no pyplot."""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunetrail.data.report.readable import readable
from tunetrail.data.report.report_data import ReportSection, largest, rows_by_reason

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN_LABELS = 30
"""Labels, the commonest first, that get a bar of their own."""

_STAYS, _CHANGED, _SET_ASIDE = "#9dbfe0", "#1f5fa8", "#b3420f"
_SIDES = ("#1f5fa8", "#5b92c9", "#9dbfe0")
_INK = "#3c4148"
_SHOWN_REASONS, _SHOWN_STEPS, _SHOWN_SIDES, _SHOWN_LENGTHS = 15, 12, 3, 4
_LABEL_CHARACTERS, _NAME_CHARACTERS = 36, 16
_WIDTH = 7.2
_DPI = 130


def figures(section: ReportSection) -> dict[str, "Figure"]:
    """Return the figures of a section by name, without those that have nothing to show.

    The names are `rows` (by step and side), `lengths`, `labels`, `reasons` (of rows set aside) and `privacy`.
    """
    aside = rows_by_reason(section.set_aside)
    reasons = {f"{step}: {reason}": len(places) for (step, reason), places in aside.items()}
    drawn = {
        "rows": _rows_figure(section),
        "lengths": _lengths_figure(section),
        "labels": _counts_figure(section.labels, "labels", "rows", SHOWN_LABELS, _CHANGED),
        "reasons": _counts_figure(reasons, "reasons", "rows set aside", _SHOWN_REASONS, _SET_ASIDE),
        "privacy": _counts_figure(section.privacy, "types", "replaced", _SHOWN_REASONS, _CHANGED),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def png(figure: "Figure") -> bytes:
    """Return the figure as a PNG on white, the same bytes for the same figure."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return picture.getvalue()


def finite_lengths(section: ReportSection) -> dict[str, NDArray[np.float64]]:
    """Return the lengths that are numbers, by unit, without units that have none."""
    numbers = {
        unit: np.asarray(values, dtype=np.float64).ravel()
        for unit, values in list(section.lengths.items())[:_SHOWN_LENGTHS]
    }
    return {
        unit: values[np.isfinite(values)]
        for unit, values in numbers.items()
        if np.isfinite(values).any()
    }


def _rows_figure(section: ReportSection) -> "Figure | None":
    account = section.account[:_SHOWN_STEPS]
    bars: list[tuple[str, list[tuple[int, str]], str]] = []
    for step in account:
        shares = [
            (step.rows_out - step.changed, _STAYS),
            (step.changed, _CHANGED),
            (step.set_aside, _SET_ASIDE),
        ]
        bars.append((step.step, shares, f"{step.rows_out:,} of {step.rows_in:,}"))
    sides = list(section.sides.items())[:_SHOWN_SIDES]
    if sides:
        shares = [(rows, colour) for (_, rows), colour in zip(sides, _SIDES, strict=False)]
        names = [f"{_drawable(side, _NAME_CHARACTERS)} {rows:,}" for side, rows in sides]
        bars.append(("sides", shares, "\n".join(names)))
    if not any(rows for _, shares, _ in bars for rows, _ in shares):
        return None
    figure = _empty_figure(0.8 + 0.42 * len(bars) + (0.2 if sides else 0.0))
    axes = figure.subplots()
    widest = max(sum(rows for rows, _ in shares) for _, shares, _ in bars)
    for position, (_, shares, text) in enumerate(bars):
        _draw_stacked(axes, position, shares)
        total = sum(rows for rows, _ in shares)
        note = axes.text(
            total + 0.012 * widest, position, text, va="center", fontsize=8, color=_INK
        )
        note.set_in_layout(False)
    _name_bars(axes, [name for name, _, _ in bars])
    axes.set_xlim(0, 1.22 * widest)
    _add_legend(figure, section)
    return figure


def _draw_stacked(axes: "Axes", position: int, shares: Sequence[tuple[int, str]]) -> None:
    left = 0
    for rows, colour in shares:
        if rows > 0:
            axes.barh(
                position,
                rows,
                left=left,
                height=0.6,
                color=colour,
                edgecolor="white",
                linewidth=0.8,
            )
        left += rows


def _add_legend(figure: "Figure", section: ReportSection) -> None:
    from matplotlib.patches import Patch

    seen = {
        "unchanged": (_STAYS, True),
        "changed": (_CHANGED, any(step.changed for step in section.account)),
        "set aside": (_SET_ASIDE, any(step.set_aside for step in section.account)),
    }
    handles = [
        Patch(color=colour, label=name) for name, (colour, present) in seen.items() if present
    ]
    if section.account:
        figure.legend(
            handles=handles,
            loc="outside upper left",
            ncols=3,
            frameon=False,
            fontsize=8,
            labelcolor=_INK,
        )


def _lengths_figure(section: ReportSection) -> "Figure | None":
    lengths = finite_lengths(section)
    if not lengths:
        return None
    columns = min(len(lengths), 2)
    lines = -(-len(lengths) // columns)
    figure = _empty_figure(2.6 * lines)
    panels = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).ravel()
    for axes, (unit, values) in zip(panels, lengths.items(), strict=False):
        _draw_lengths(axes, unit, values, section.max_length if unit == "tokens" else None)
    for axes in panels[len(lengths) :]:
        axes.remove()
    return figure


def _draw_lengths(axes: "Axes", unit: str, values: NDArray[np.float64], limit: int | None) -> None:
    # A few very long rows would press all others into one bar: the axis ends a little after 99 % of them.
    low, high = min(0.0, float(values.min())), max(1.15 * float(np.quantile(values, 0.99)), 1.0)
    far = limit is not None and limit > 4 * high
    if limit is not None and not far:
        high = max(high, 1.1 * limit)
    axes.hist(values, bins=40, range=(low, high), color=_STAYS, edgecolor="white", linewidth=0.4)
    _style(axes)
    axes.set_xlim(low, high)
    axes.set_ylabel("rows", fontsize=8, color=_INK)
    beyond = int((values > high).sum())
    note = f" ({beyond:,} longer, up to {values.max():,.0f})" if beyond else ""
    axes.set_xlabel(f"{_drawable(unit, _NAME_CHARACTERS)}{note}", fontsize=8, color=_INK)
    if limit is not None:
        position = high if far else float(limit)
        axes.axvline(position, color=_SET_ASIDE, linewidth=1.4, linestyle=":" if far else "-")
        side = "right" if position - low > 0.5 * (high - low) else "left"
        axes.annotate(
            f"max_length {limit:,}{' (further right)' if far else ''}",
            (position, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if side == "right" else 4, 0),
            textcoords="offset points",
            fontsize=8,
            ha=side,
            va="bottom",
            color=_SET_ASIDE,
        )


def _counts_figure(
    counts: Mapping[str, int], plural: str, unit: str, limit: int, colour: str
) -> "Figure | None":
    shown, others, rest = largest(counts, limit)
    if not any(rows for _, rows in shown):
        return None
    names, rows = [name for name, _ in shown], [count for _, count in shown]
    colours = [colour] * len(shown)
    if others:
        names, rows, colours = (
            [*names, f"{others:,} other {plural}"],
            [*rows, rest],
            [*colours, "#a5abb3"],
        )
    figure = _empty_figure(0.6 + 0.26 * len(names))
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), rows, height=0.7, color=colours)
    axes.bar_label(bars, [f"{count:,}" for count in rows], padding=3, fontsize=8, color=_INK)
    axes.margins(x=0.12)
    axes.set_xlabel(unit, fontsize=8, color=_INK)
    _name_bars(axes, names)
    return figure


def _name_bars(axes: "Axes", names: Sequence[str]) -> None:
    _style(axes)
    axes.set_yticks(range(len(names)), [_drawable(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _style(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c4c8cd")
    axes.tick_params(labelsize=8, color="#c4c8cd", labelcolor=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _empty_figure(height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _drawable(text: str, limit: int = _LABEL_CHARACTERS) -> str:
    """Return a short text that the font has the characters of, with no part that reads as a formula."""
    line = " ".join(readable(text, limit).split()) or "(empty)"
    known = _characters_of_font()
    return "".join(
        character if ord(character) in known else "\ufffd" for character in line
    ).replace("$", r"\$")


@cache
def _characters_of_font() -> Mapping[int, Any]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties())).get_charmap()
