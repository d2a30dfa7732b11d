"""The tables of a report, against the comparison that they come from."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.embedding_map import EmbeddingMap
from tunetrail.evaluation.error_analysis import row_changes
from tunetrail.evaluation.example_rows import FOLD, REFERENCE, ExampleRows, ScoredRun
from tunetrail.evaluation.report.run_report import ModelReport
from tunetrail.evaluation.report.tables import (
    fold_lines,
    map_groups,
    metric_lines,
    metric_table,
)

TEST_ROWS, FOLD_ROWS = 50, 40


@pytest.fixture
def rows() -> ExampleRows:
    """Rows of a language model, of which the last ten had no answer to write, and of two folds."""
    generator = np.random.default_rng(0)
    count = TEST_ROWS + FOLD_ROWS
    answered = np.where(np.arange(count) < TEST_ROWS - 10, 1.0, np.nan)
    nats, tokens = generator.uniform(20, 40, count), generator.integers(5, 20, count)
    columns: dict[str, Any] = {
        "side": ["test"] * TEST_ROWS + [FOLD] * FOLD_ROWS,
        "fold": pd.array([None] * TEST_ROWS + [1] * 25 + [2] * 15, "Int64"),
        "row_id": pd.array(range(count), "Int64"),
        "cluster": list(map(str, range(count))),
        "nats": nats,
        "tokens": tokens,
        "bytes": 4.0 * tokens,
        "exact_match": answered * generator.integers(0, 2, count),
    }
    columns["bits_per_byte"] = nats / np.log(2.0) / columns["bytes"]
    columns |= {REFERENCE + name: columns[name] for name in ("tokens", "bytes")}
    columns[REFERENCE + "nats"] = nats * generator.uniform(1.0, 1.2, count)
    columns[REFERENCE + "bits_per_byte"] = (
        columns[REFERENCE + "nats"] / np.log(2.0) / columns["bytes"]
    )
    columns[REFERENCE + "exact_match"] = answered * generator.integers(0, 2, count)
    run = ScoredRun(
        model_type="llm",
        shape="completion",
        metric="bits_per_byte",
        against="base",
        run_id="r1",
        metrics={"bits_per_byte": 1.0, "loss": 2.0},
        reference_metrics={"bits_per_byte": 1.1, "loss": 2.2},
    )
    return ExampleRows(run=run, table=pd.DataFrame(columns))


@pytest.fixture
def report(rows: ExampleRows) -> ModelReport:
    before, after = (rows.scores(model) for model in (REFERENCE, ""))
    comparison = compare(before, after, bootstrap_samples=2000, confidence=0.95, seed=0)
    evaluation = {
        "candidate": {
            "metrics": {"loss": 2.0, "exact_match": 0.5, "unheard_of": 3.0},
            "intervals": {"loss": (1.9, 2.1)},
        },
        "reference": {"metrics": {"loss": 2.2, "exact_match": 0.25}},
        "generation": {"metrics": {"exact_match": {"before_interval": [0.1, 0.4]}}},
    }
    return ModelReport(
        model_type="llm",
        run_id="r1",
        steps={"comparison": comparison.to_dict(), "evaluation": evaluation},
        rows=rows,
    )


def test_metric_lines_have_the_intervals_that_the_rows_tell(
    report: ModelReport, rows: ExampleRows
) -> None:
    lines = {line.name: line for line in metric_lines(report)}

    assert list(lines) == ["bits_per_byte", "loss", "exact_match", "unheard_of"]
    comparison = report.comparison
    primary = lines["bits_per_byte"]
    assert primary.improvement_bounds == (comparison.lower, comparison.upper)

    # Lower is better, so an improvement has the other sign; the paired interval is that of compare.
    by_loss = [dataclasses.replace(rows.scores(model), metric="loss") for model in (REFERENCE, "")]
    expected = compare(*by_loss, bootstrap_samples=2000, confidence=0.95, seed=0)
    loss = lines["loss"]
    assert loss.higher_is_better is False and loss.after_bounds == (1.9, 2.1)
    assert loss.improvement == pytest.approx(expected.improvement) and loss.improvement > 0.0
    assert loss.improvement_bounds == pytest.approx((expected.lower, expected.upper))

    # From the answered rows only.
    answers = lines["exact_match"]
    table = rows.table[: TEST_ROWS - 10]
    change = (table["exact_match"] - table[REFERENCE + "exact_match"]).mean()
    assert answers.improvement == pytest.approx(change)
    assert answers.before_bounds == (0.1, 0.4) and answers.after_bounds == (None, None)

    unknown = lines["unheard_of"]
    assert (unknown.label, unknown.higher_is_better) == ("unheard_of", None)
    assert (unknown.before, unknown.improvement) == (None, None)


def test_a_metric_that_grows_with_the_rows_has_a_change_without_bounds(
    rows: ExampleRows, report: ModelReport
) -> None:
    ranks = np.random.default_rng(1).normal(2.0, 0.1, len(rows.table))
    columns = {"log_effective_rank": ranks, REFERENCE + "log_effective_rank": ranks - 0.5}
    evaluation = {
        "candidate": {"metrics": {"effective_rank": 9.0}},
        "reference": {"metrics": {"effective_rank": 7.0}},
    }
    grown = dataclasses.replace(
        report,
        rows=dataclasses.replace(rows, table=rows.table.assign(**columns)),
        steps=report.steps | {"evaluation": evaluation},
    )

    line = {line.name: line for line in metric_lines(grown)}["effective_rank"]

    assert line.improvement == 2.0 and line.improvement_bounds == (None, None)


def test_metric_lines_without_rows_have_the_change_only(report: ModelReport) -> None:
    lines = {line.name: line for line in metric_lines(dataclasses.replace(report, rows=None))}

    assert lines["loss"].improvement == pytest.approx(0.2)
    assert lines["loss"].improvement_bounds == (None, None)


def test_metric_table_has_a_line_for_each_metric(report: ModelReport) -> None:
    table = metric_table(metric_lines(report)).set_index("metric")

    assert table.loc["loss", ["before", "after", "after_lower"]].tolist() == [2.2, 2.0, 1.9]
    assert list(table.columns[:3]) == ["label", "before", "before_lower"]


def cross_validation(**changes: Any) -> dict[str, Any]:
    comparison = {
        "metric": "bits_per_byte",
        "before": 1.2,
        "after": 1.1,
        "improvement": 0.1,
        "lower": 0.05,
        "upper": 0.15,
        "confidence": 0.95,
        "examples": FOLD_ROWS,
        "bootstrap_samples": 1000,
        "better_share": 1.0,
        "worse_share": 0.0,
    }
    gain = {
        "recipe": "recipe at 20 % of the steps",
        "comparison": comparison,
        "base_folds": [1.2, 1.2],
        "differences": [0.08, 0.12],
        "mean_difference": 0.1,
        "standard_error": 0.02,
        "mean_lower": -0.1,
        "mean_upper": 0.3,
    }
    return {
        "metric": "bits_per_byte",
        "folds": [1.1, 1.1],
        "mean": 1.1,
        "standard_deviation": 0.0,
        "fold_metrics": [{}, {}],
        "fold_numbers": [1, 2],
        "gain": {**gain, **changes},
    }


def test_fold_lines_have_each_fold_their_rows_and_their_mean(report: ModelReport) -> None:
    steps = {**report.steps, "cross_validation": cross_validation()}

    lines = fold_lines(dataclasses.replace(report, steps=steps))

    assert [line.name for line in lines] == [
        "fold 1",
        "fold 2",
        "rows of all folds",
        "mean of the folds",
    ]
    assert lines[0].improvement == 0.08
    assert lines[2] == dataclasses.replace(lines[2], improvement=0.1, lower=0.05, upper=0.15)
    assert (lines[3].lower, lines[3].upper) == (-0.1, 0.3)
    for line in lines[:2]:
        assert line.lower is not None and line.upper is not None and line.lower < line.upper


def test_folds_of_a_run_without_rows_have_no_interval(report: ModelReport) -> None:
    steps = {**report.steps, "cross_validation": cross_validation(mean_lower=None)}

    lines = fold_lines(dataclasses.replace(report, steps=steps, rows=None))

    assert [line.lower for line in lines] == [None, None, 0.05]


def test_there_are_no_folds_without_cross_validation(report: ModelReport) -> None:
    off = {**report.steps, "cross_validation": {"folds": [], "note": "off"}}
    assert fold_lines(dataclasses.replace(report, steps=off)) == []
    # As the first versions kept them.
    old = {**report.steps, "cross_validation": {**cross_validation(), "gain": None}}
    assert fold_lines(dataclasses.replace(report, steps=old)) == []


@pytest.mark.parametrize(
    ("columns", "own_columns", "name"),
    [
        ({"label": ["a", "b"], "source": ["x", "y"]}, ("source",), "label"),
        ({"price": ["1", "2"], "source": ["x", "y"]}, ("price", "source"), "source"),
        ({"source": ["x", "x"]}, ("source",), "outcome"),
        ({}, (), "outcome"),
    ],
)
def test_the_map_is_coloured_by_label_source_or_outcome(
    columns: dict[str, list[str]],
    own_columns: tuple[str, ...],
    name: str,
    report: ModelReport,
    rows: ExampleRows,
) -> None:
    repeated = {column: values * (len(rows.table) // 2) for column, values in columns.items()}
    coloured = ExampleRows(
        run=dataclasses.replace(rows.run, own_columns=own_columns),
        table=rows.table.assign(**repeated),
    )
    mapped = EmbeddingMap(table=pd.DataFrame(), before_share=1.0, after_share=1.0)
    changes = row_changes(coloured).table

    groups = map_groups(dataclasses.replace(report, rows=coloured, embedding_map=mapped), changes)

    assert groups is not None and groups[0] == name
    assert len(groups[1]) == TEST_ROWS
    if name == "outcome":
        counts = groups[1].value_counts()
        fixed = (~changes["right_before"] & changes["right_after"]).sum()
        assert counts.get("fixed", 0) == fixed
    else:
        assert groups[1].tolist() == columns[name] * (TEST_ROWS // 2)
