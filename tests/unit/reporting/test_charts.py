import sys

import pytest

from tunetrail.reporting.charts import (
    BLUE,
    INK,
    RUST,
    IntervalLine,
    bar_chart,
    drawable,
    interval_chart,
    new_figure,
    png,
)


def test_bar_chart_sums_up_the_smallest_counts() -> None:
    counts = {"red": 5, "green": 3, "blue": 2, "grey": 1}

    figure = bar_chart(counts, limit=2, noun="colours", unit="cars", colour=BLUE)

    assert figure is not None
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [5, 3, 3]  # type: ignore[attr-defined]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["red", "green", "2 other colours"]
    assert axes.get_xlabel() == "cars"


@pytest.mark.parametrize("counts", [{}, {"red": 0}])
def test_bar_chart_of_nothing_is_none(counts: dict[str, int]) -> None:
    assert bar_chart(counts, limit=2, noun="colours", unit="cars", colour=BLUE) is None


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("two\n lines", "two lines"),
        ("", "(empty)"),
        ("$x$", r"\$x\$"),
        ("標籤", "\ufffd\ufffd"),
        ("long " * 20, "long long long long long long long …"),
    ],
)
def test_drawable_is_one_short_line(text: str, drawn: str) -> None:
    assert drawable(text) == drawn


def test_figures_belong_to_no_global_state() -> None:
    picture = png(new_figure(1.0))

    assert picture.startswith(b"\x89PNG")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_interval_chart_draws_each_line_with_its_bounds() -> None:
    intervals = [
        IntervalLine("better", 0.2, 0.1, 0.3),
        IntervalLine("worse", -0.2, -0.3, -0.1),
        IntervalLine("open", 0.05),
    ]

    figure = interval_chart(intervals, "gain in points", width=4.0)

    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["better", "worse", "open"]
    # The line at 0, then two lines with an end each, and one point without bounds.
    ends = [list(map(float, line.get_xdata())) for line in axes.lines]  # type: ignore[arg-type]
    assert ends[1:] == [[0.1, 0.3], [0.2], [-0.3, -0.1], [-0.2], [0.05]]
    assert [line.get_color() for line in axes.lines[1:]] == [BLUE, BLUE, RUST, RUST, INK]
    assert axes.get_xlabel() == "gain in points"
