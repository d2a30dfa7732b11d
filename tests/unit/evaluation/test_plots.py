import io
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.plots import (
    comparison_figure,
    confusion_figure,
    learning_curve_figure,
    rate_figure,
    slice_name,
    slices_figure,
)

COMPARISON = Comparison(
    metric="ndcg_at_10",
    before=0.5,
    after=0.6,
    improvement=0.1,
    lower=0.05,
    upper=0.15,
    confidence=0.95,
    examples=100,
    bootstrap_samples=1000,
    better_share=0.4,
    worse_share=0.1,
)


def texts(figure: Figure) -> str:
    return " ".join(
        label
        for axes in figure.axes
        for label in (axes.get_title(), axes.get_xlabel(), axes.get_ylabel())
    )


def assert_draws(figure: Figure) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    assert picture.getvalue().startswith(b"\x89PNG")


def test_learning_curve_figure_draws_losses_and_the_learning_rate() -> None:
    history = {
        "train/loss": [(0, 2.0), (10, 1.0), (20, math.nan)],
        "val/loss": [(10, 1.5), (20, math.inf)],
        "train/learning_rate": [(0, 0.0), (20, 1e-5)],
        "train/tokens_per_second": [(10, 5000.0), (20, 5100.0)],
    }

    figure = learning_curve_figure(history, "embedding")

    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "train/loss",
        "val/loss",
    ]
    assert "step" in texts(figure) and "learning rate" in texts(figure)
    assert_draws(figure)


@pytest.mark.parametrize("history", [{}, {"train/loss": []}, {"train/loss": [(0, 1.0)]}])
def test_learning_curve_figure_draws_whatever_there_is(
    history: dict[str, list[tuple[int, float]]],
) -> None:
    figure = learning_curve_figure(history, "short")
    assert len(figure.axes) == 1
    assert_draws(figure)


def test_rate_figure_marks_the_rate_chosen_in_the_curve() -> None:
    figure = rate_figure([(1e-6, 2.0), (1e-4, 1.5), (1e-2, 3.0)], 1e-5)

    (axes,) = figure.axes
    curve, chosen = axes.lines
    assert list(curve.get_xdata()) == [1e-6, 1e-4, 1e-2]
    assert set(chosen.get_xdata()) == {1e-5}
    assert axes.get_xscale() == "log"
    assert axes.get_legend().get_texts()[0].get_text() == "chosen: 1e-05"
    assert_draws(figure)


def test_comparison_figure_shows_values_and_interval() -> None:
    figure = comparison_figure(COMPARISON)
    assert "nDCG@10 (higher is better)" in texts(figure)
    assert "95% interval [0.05, 0.15], 100 examples" in texts(figure)
    assert_draws(figure)


def test_comparison_figure_says_when_there_is_no_interval() -> None:
    figure = comparison_figure(replace(COMPARISON, lower=None, upper=None, examples=3))
    assert "too few rows, 3 examples" in texts(figure)
    assert_draws(figure)


@pytest.mark.processes
def test_plots_import_no_pyplot() -> None:
    code = (
        "import sys; from tunetrail.evaluation.plots import learning_curve_figure; learning_curve_figure({}, 't'); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_slices_figure_names_the_worst_slices_on_top() -> None:
    slices = pd.DataFrame(
        {
            "attribute": ["source", "label"] * 10,
            "value": [f"$v{row}$" for row in range(20)],
            "rows": 1200,
            "improvement": np.linspace(-0.2, 0.1, 20),
            "corrected_upper": [*np.linspace(-0.1, 0.2, 19), np.nan],
        }
    )

    figure = slices_figure(slices, "ndcg_at_10")
    one_line = slices_figure(slices.tail(1), "ndcg_at_10")

    assert_draws(figure)
    assert_draws(one_line)
    names = [label.get_text() for label in figure.axes[0].texts]
    assert len(names) == 12 and names[0] == r"source = \$v0\$ (1,200 rows)"
    assert texts(figure).strip() == "improvement of nDCG@10, intervals for all slices"


@pytest.mark.parametrize(
    ("attribute", "value", "name"),
    [
        ("source", "web", "source = web"),
        ("embedding_cluster", "384", "texts near row 384"),
        ("embedding_cluster", "384.0", "texts near row 384"),
    ],
)
def test_slice_name_is_what_people_say(attribute: str, value: str, name: str) -> None:
    assert slice_name(attribute, value) == name


def test_confusion_figure_shows_the_labels_with_the_most_mistakes() -> None:
    labels = [f"label {row}" for row in range(30)]
    counts = np.diag(np.full(30, 9))
    counts[29, 28] = 5
    confusion = pd.DataFrame(counts, index=labels, columns=labels)

    figure = confusion_figure(confusion)

    assert_draws(figure)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == 20 and {"label 28", "label 29"} <= set(names)
    assert_draws(confusion_figure(confusion.iloc[:1, :1]))
