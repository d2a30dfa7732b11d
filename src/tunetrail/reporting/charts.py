"""Charts in one style, drawn on canvases of their own instead of pyplot's global ones."""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tunetrail.reporting.readable import largest, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT_BLUE, MIDDLE_BLUE, BLUE, RUST = "#9dbfe0", "#5b92c9", "#1f5fa8", "#b3420f"
INK, GREY, LIGHT_GREY = "#3c4148", "#a5abb3", "#c4c8cd"

TEXT: Mapping[str, Any] = {"fontsize": 8, "color": INK}
"""Keyword arguments of a text in a chart."""

_LABEL_CHARACTERS = 36
_PAGE_WIDTH = 7.2
_DPI = 130


def new_figure(height: float, width: float = _PAGE_WIDTH) -> "Figure":
    """Return an empty figure of a size in inches; by default it is as wide as a page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: "Figure") -> bytes:
    """Return the figure as a PNG on white; the same figure always gives the same bytes."""
    picture = io.BytesIO()
    # matplotlib would write its version into the file.
    metadata = {"Software": None}
    figure.savefig(picture, format="png", dpi=_DPI, facecolor="white", metadata=metadata)
    return picture.getvalue()


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
        if ord(character) not in _characters_of_font():
            line = line.replace(character, "\ufffd")
    # Between two dollars, matplotlib would read TeX.
    return line.replace("$", r"\$")


@cache
def _characters_of_font() -> Mapping[int, Any]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties())).get_charmap()
