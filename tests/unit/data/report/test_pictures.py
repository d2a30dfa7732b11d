import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from tests.report_sections import EMPTY_SECTION

from tunetrail.data.checks.results import StepAccount
from tunetrail.data.report.pictures import SHOWN_LABELS, figures
from tunetrail.data.rows import set_aside_frame
from tunetrail.reporting.charts import png

FULL = replace(
    EMPTY_SECTION,
    account=(
        StepAccount(step="validation", rows_in=100, rows_out=90, set_aside=10),
        StepAccount(step="cleaning", rows_in=90, rows_out=90, set_aside=0, changed=20),
    ),
    sides={"train": 60, "validation": 15, "test": 15},
    set_aside=set_aside_frame(
        "validation", [(index, "too_short", "x", None) for index in range(10)]
    ),
    lengths={"characters": np.arange(90), "tokens": np.arange(90) / 4},
    labels={"bug": 50, "question": 40},
    max_length=16,
    privacy={"EMAIL": 3},
)


def all_texts(figure: Figure) -> str:
    labels = [axes.get_xlabel() for axes in figure.axes]
    ticks = [tick.get_text() for axes in figure.axes for tick in axes.get_yticklabels()]
    notes = [text.get_text() for axes in figure.axes for text in axes.texts]
    legend = [text.get_text() for box in figure.legends for text in box.get_texts()]
    return " | ".join([*labels, *ticks, *notes, *legend])


def widths(figure: Figure) -> list[float]:
    return [bar.get_width() for bar in figure.axes[0].patches]  # type: ignore[attr-defined]


def test_figures_show_what_there_is() -> None:
    drawn = figures(FULL)
    assert list(drawn) == ["rows", "lengths", "labels", "reasons", "privacy"]
    assert all(png(figure).startswith(b"\x89PNG") for figure in drawn.values())


def test_figures_leave_out_what_is_empty() -> None:
    assert figures(EMPTY_SECTION) == {}

    nothing = StepAccount(step="validation", rows_in=0, rows_out=0, set_aside=0)
    assert (
        figures(
            replace(
                EMPTY_SECTION, account=(nothing,), sides={"train": 0, "validation": 0, "test": 0}
            )
        )
        == {}
    )
    assert (
        figures(
            replace(
                EMPTY_SECTION, lengths={"tokens": np.array([]), "characters": np.array([np.nan])}
            )
        )
        == {}
    )


def test_rows_figure_adds_up() -> None:
    figure = figures(FULL)["rows"]
    assert widths(figure) == [90, 10, 70, 20, 60, 15, 15]
    shown = all_texts(figure)
    assert "90 of 100" in shown and "train 60\nvalidation 15\ntest 15" in shown
    assert "unchanged | changed | set aside" in shown


def test_lengths_figure_has_the_limit_among_the_tokens_only() -> None:
    characters, tokens = figures(FULL)["lengths"].axes
    assert len(characters.lines) == 0
    assert tokens.lines[0].get_xdata()[0] == 16.0  # type: ignore[index]
    assert tokens.texts[0].get_text() == "max_length 16"
    assert sum(bar.get_height() for bar in tokens.patches) == 90  # type: ignore[attr-defined]


def test_lengths_figure_says_how_many_rows_are_beyond_its_edge() -> None:
    lengths = np.array([10.0] * 999 + [1_000_000.0])
    axes = figures(replace(EMPTY_SECTION, lengths={"characters": lengths}))["lengths"].axes[0]
    assert axes.get_xlim()[1] < 20
    assert axes.get_xlabel() == "characters (1 longer, up to 1,000,000)"


def test_lengths_figure_is_not_stretched_by_a_limit_far_away() -> None:
    axes = figures(replace(FULL, max_length=8192))["lengths"].axes[1]
    assert axes.get_xlim()[1] < 30
    assert axes.texts[0].get_text() == "max_length 8,192 (further right)"


@pytest.mark.parametrize("values", [[5], [0, 0], [np.inf, 3], [-2, np.nan], [10**12]])
def test_lengths_figure_takes_odd_numbers(values: list[Any]) -> None:
    drawn = figures(replace(EMPTY_SECTION, lengths={"tokens": np.array(values)}, max_length=1))
    assert png(drawn["lengths"]).startswith(b"\x89PNG")


def test_labels_figure_sums_up_the_rare_ones() -> None:
    labels = {f"label {index:03}": 1_000 - index for index in range(SHOWN_LABELS + 5)}
    figure = figures(replace(EMPTY_SECTION, labels=labels))["labels"]
    assert len(widths(figure)) == SHOWN_LABELS + 1
    assert widths(figure)[-1] == sum(sorted(labels.values())[:5])
    assert "5 other labels" in all_texts(figure)


def test_reasons_figure_keeps_the_steps_apart() -> None:
    shown = all_texts(figures(FULL)["reasons"])
    assert "validation: too_short" in shown and "rows set aside" in shown


@settings(max_examples=20, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(), max_size=12), st.integers(0, 10**9), min_size=1, max_size=4
    )
)
def test_any_label_can_be_drawn(labels: dict[str, int]) -> None:
    drawn = figures(replace(EMPTY_SECTION, labels=labels))
    assert set(drawn) == ({"labels"} if any(labels.values()) else set())
    assert all(png(figure).startswith(b"\x89PNG") for figure in drawn.values())


@pytest.mark.parametrize(
    "label", [r"$\frac{$", "$x$", "\0\ud800", "標籤", "🙂", "a" * 1_000_000, "\n", "تسمية"]
)
def test_hostile_labels_can_be_drawn(label: str) -> None:
    drawn = figures(replace(EMPTY_SECTION, labels={label: 3, "plain": 1}, privacy={label: 1}))
    assert all(png(figure).startswith(b"\x89PNG") for figure in drawn.values())
    assert len(all_texts(drawn["labels"])) < 200


@pytest.mark.parametrize("text", ["W" * 1_000, "\ud800" * 1_000])
def test_wide_names_leave_room_for_the_bars(text: str) -> None:
    step = StepAccount(step=text, rows_in=3, rows_out=2, set_aside=1, changed=1)
    frame = set_aside_frame(text, [(1, text, text, None)])
    section = replace(
        EMPTY_SECTION,
        account=(step,),
        sides={text: 2},
        set_aside=frame,
        lengths={text: np.array([1, 2])},
    )
    for figure in figures(section).values():
        png(figure)
        assert all(axes.get_window_extent().width > 0.3 * figure.bbox.width for axes in figure.axes)


def test_png_is_the_same_each_time() -> None:
    assert {name: png(figure) for name, figure in figures(FULL).items()} == {
        name: png(figure) for name, figure in figures(FULL).items()
    }


@pytest.mark.processes
def test_pictures_import_no_pyplot() -> None:
    code = (
        "import sys, numpy, pandas; from tunetrail.data.report.pictures import figures; "
        "from tunetrail.reporting.charts import png; "
        "from tunetrail.data.report.report_data import ReportSection; "
        "empty = pandas.DataFrame(columns=['step', 'reason']); "
        "section = ReportSection(name='llm', account=(), findings=(), sides={'train': 1}, set_aside=empty, "
        "changes=empty, lengths={'tokens': numpy.arange(3)}, labels={'a': 1}, max_length=2, drift={}, privacy={}); "
        "[png(figure) for figure in figures(section).values()]; "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
