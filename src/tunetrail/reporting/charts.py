"""Charts in one style, drawn on canvases of their own instead of pyplot's global ones."""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from tunetrail.imports import importing
from tunetrail.reporting.readable import largest, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT_BLUE, MIDDLE_BLUE, BLUE, RUST = "#9dbfe0", "#5b92c9", "#1f5fa8", "#b3420f"
INK, DARK_GREY, GREY, LIGHT_GREY = "#3c4148", "#7d838c", "#a5abb3", "#c4c8cd"

TEXT: Mapping[str, Any] = {"fontsize": 8, "color": INK}
"""Keyword arguments of a text in a chart."""

_LABEL_CHARACTERS = 36
_LAST_OF_LATIN_1 = 0xFF
# Of a text of 8 points.
_NAME_CHARACTERS_PER_INCH = 14
PAGE_WIDTH = 7.2
"""Inches of a picture that is as wide as a page."""
_DPI = 130


class IntervalLine(NamedTuple):
    """A line of an interval chart: a value, and its bounds if it has any."""

    name: str
    value: float
    lower: float | None = None
    upper: float | None = None

    @property
    def colour(self) -> str:
        """Blue if the interval lies above 0, rust if below; otherwise ink."""
        if self.lower is not None and self.lower > 0.0:
            return BLUE
        return RUST if self.upper is not None and self.upper < 0.0 else INK


def new_figure(height: float, width: float = PAGE_WIDTH) -> "Figure":
    """Return an empty figure of a size in inches; by default it is as wide as a page."""
    with importing():
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: "Figure", dpi: int = _DPI) -> bytes:
    """Return the figure as a PNG; the same figure always gives the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    picture = io.BytesIO()
    figure.set_dpi(dpi)
    # matplotlib would write its version into the file.
    metadata = {"Software": None}
    # Not `savefig`, which draws a figure with a layout twice: first only to arrange it.
    FigureCanvasAgg(figure).print_png(picture, metadata=metadata)  # type: ignore[no-untyped-call]
    return picture.getvalue()


def pngs(figures: Mapping[str, "Figure"], dpi: int = _DPI) -> dict[str, bytes]:
    """Return figures as PNGs, by their names: drawn once, for a page and for MLflow."""
    return {name: png(figure, dpi) for name, figure in figures.items()}


def bar_chart(
    counts: Mapping[str, int], *, limit: int, noun: str, unit: str, colour: str
) -> "Figure | None":
    """Draw one horizontal bar for each of the largest counts; None if all counts are 0.

    Args:
        counts: Counts by name.
        limit: Largest number of names with a bar of their own; one more bar sums up the others.
        noun: What the names are, in the plural: `labels`.
        unit: What is counted: `rows`.
        colour: Of the bars.
    """
    shown, hidden, hidden_sum = largest(counts, limit)
    if not any(count for _, count in shown):
        return None

    names = [name for name, _ in shown]
    lengths = [count for _, count in shown]
    colours = [colour] * len(shown)
    if hidden:
        names.append(f"{hidden:,} other {noun}")
        lengths.append(hidden_sum)
        colours.append(GREY)

    figure = new_figure(0.6 + 0.26 * len(names))
    axes = figure.subplots()
    bars = axes.barh(range(len(names)), lengths, height=0.7, color=colours)
    axes.bar_label(bars, [f"{length:,}" for length in lengths], padding=3, **TEXT)
    axes.margins(x=0.12)
    axes.set_xlabel(unit, **TEXT)
    name_bars(axes, names)
    return figure


def interval_chart(
    intervals: Sequence[IntervalLine], label: str, *, width: float = PAGE_WIDTH
) -> "Figure":
    """Draw values with their intervals, one below the other, next to a line at 0.

    A name stands above its interval, so that long names take no room from the axis.

    Args:
        intervals: The lines, the first of them on top; at least one.
        label: Of the axis, with the unit.
        width: Of the figure, in inches.
    """
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    figure = new_figure(0.65 + 0.38 * len(intervals), width)
    axes = figure.subplots()
    axes.axvline(0.0, color=GREY, linestyle="--", linewidth=1)
    for position, interval in enumerate(intervals):
        colour = interval.colour
        if interval.lower is not None and interval.upper is not None:
            axes.plot([interval.lower, interval.upper], [position] * 2, color=colour, linewidth=2)
        axes.plot([interval.value], [position], "o", color=colour, markersize=4.5)
        # At the left edge, whatever the values are.
        name = axes.annotate(
            drawable(interval.name, int(_NAME_CHARACTERS_PER_INCH * width)),
            (0.0, position),
            xycoords=("axes fraction", "data"),
            xytext=(0, 5),
            textcoords="offset points",
            ha="left",
            va="bottom",
            # Over the line at 0 and over the end of a long interval.
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.85},
            **TEXT,
        )
        name.set_in_layout(False)

    style_axes(axes)
    axes.spines["left"].set_visible(False)
    axes.set_yticks([])
    axes.set_ylim(len(intervals) - 0.6, -0.85)
    # The common style is made for counts of rows.
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(label, **TEXT)
    return figure


def name_bars(axes: "Axes", names: Sequence[str]) -> None:
    """Name horizontal bars at the positions 0, 1, ..., the first of them on top."""
    style_axes(axes)
    axes.set_yticks(range(len(names)), list(map(drawable, names)))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def style_axes(axes: "Axes") -> None:
    """Give axes the common style: no frame, quiet ticks, whole numbers along the x axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LIGHT_GREY)
    axes.tick_params(labelsize=8, color=LIGHT_GREY, labelcolor=INK)

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def drawable(text: str, limit: int = _LABEL_CHARACTERS) -> str:
    """Return one short line that the font can draw, and in which nothing reads as a formula."""
    line = " ".join(readable(text, limit).split()) or "(empty)"
    for character in set(line):
        # Every font has the characters of Latin-1. To list a font's takes half a second.
        if ord(character) > _LAST_OF_LATIN_1 and ord(character) not in _characters_of_font():
            line = line.replace(character, "\ufffd")
    # Between two dollars, matplotlib would read TeX.
    return line.replace("$", r"\$")


@cache
def _characters_of_font() -> Mapping[int, Any]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties())).get_charmap()
