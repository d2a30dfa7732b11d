"""The folds of a whole run: what they gain over the base model, on which rows, and how many are trained."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.tracking import client_of, runs_by_family

from tunetrail import DataSciencePipeline
from tunetrail.cli.results_table import print_results
from tunetrail.config import AugmentationConfig, CrossValidationConfig, Settings
from tunetrail.data.rows import records_of, rows_frame
from tunetrail.data.splits import make_folds
from tunetrail.pipeline.families import family_named
from tunetrail.samples import parse_sample

# Whole trainings, some seconds each.
pytestmark = pytest.mark.processes

Make = Callable[..., Settings]


def frame_of(rows: list[dict[str, Any]], model_type: str) -> pd.DataFrame:
    kind = family_named(model_type).kind
    return rows_frame(enumerate((parse_sample(row, kind) for row in rows), start=1))


@pytest.mark.parametrize(
    ("model_type", "shape"),
    [("embedding", "pair"), ("embedding", "label"), ("embedding", "score"), ("llm", "completion")],
)
def test_the_base_model_is_scored_on_the_rows_and_documents_of_each_fold(
    workplace: Path, make_settings: Make, make_rows: Any, model_type: str, shape: str
) -> None:
    settings = make_settings(workplace, cross_validation=CrossValidationConfig(n_splits=2))
    pipeline = DataSciencePipeline(settings)
    outcome = pipeline.run(
        model_type, frame_of(make_rows(shape), model_type), until="cross_validate"
    )

    result, prepared = outcome.cross_validation, outcome.prepared
    assert result is not None and prepared is not None
    assert result.gain is not None and result.out_of_fold is not None
    family = family_named(model_type)
    folds = make_folds(prepared.split.train, 2, settings.seed)
    learner = family.learner(settings, prepared.shape, None)
    base = learner.load(family.section(settings).model)
    for fold, base_value in zip(folds, result.gain.base_folds, strict=True):
        corpus = records_of(family.corpus_rows(settings, fold.train))
        records = records_of(fold.validation)
        expected = family.score(learner, base, records, corpus, settings.evaluation)
        assert base_value == pytest.approx(expected.value, abs=1e-5)

    table = result.out_of_fold.table()
    assert set(table["row_id"]) == set(prepared.split.train["row_id"])
    assert table["row_id"].is_unique
    for fold in folds:
        rows = table[table["fold"] == fold.number + 1]
        assert set(rows["row_id"]) == set(fold.validation["row_id"])
    assert result.gain.comparison.examples == len(table) > 30
    if f"reference_{result.metric}" in table and shape != "completion":
        gains = table[result.metric] - table[f"reference_{result.metric}"]
        assert gains.mean() == pytest.approx(result.gain.comparison.improvement, abs=1e-12)

    # Read again by whoever resumes the run: the same rows, to the last digit.
    run = pipeline.tracker.run(outcome.mlflow_run_id)
    again = pipeline.run(model_type, pd.DataFrame(), until="cross_validate", resumed=run)
    assert again.cross_validation is not None and again.cross_validation.out_of_fold is not None
    pd.testing.assert_frame_equal(
        again.cross_validation.out_of_fold.table(), table, check_exact=True
    )
    assert again.cross_validation.gain == result.gain


def test_the_share_of_the_steps_is_in_the_name_of_what_is_shown(
    trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    print_results(trained.results, trained.settings.tracking.uri)
    printed = capsys.readouterr().out
    for model_type in ("embedding", "llm"):
        line = f"{model_type}: cross-validation, recipe at 50 % of the steps: "
        assert sum(line in text for text in printed.splitlines()) == 1

    client = client_of(trained.settings.tracking.uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments)
    step = trained.results["results"]["steps"]["cross_validation"]["embedding"]
    assert step["recipe"] == step["gain"]["recipe"] == "recipe at 50 % of the steps"
    embedding = runs_by_family(runs)["embedding"].data.metrics
    metric, key = step["metric"], "cross_validation/recipe_at_50_percent"
    assert embedding[f"{key}/{metric}_mean"] == step["mean"]
    assert embedding[f"{key}/improvement"] == step["gain"]["comparison"]["improvement"]
    folds = [run.data.metrics for run in runs if run.info.run_name == "fold-1"]
    counts = [
        fold.keys() & {f"{key}/{name}" for name in ("side_rows", "documents")} for fold in folds
    ]
    # A language model ranks nothing.
    assert sorted(map(len, counts)) == [1, 2]
    shown = {name for name in embedding if name.startswith("cross_validation/")}
    assert shown and all(name.startswith(f"{key}/") for name in shown)

    for run in runs:
        if run.info.run_name.startswith("fold-"):
            assert run.data.tags["tunetrail.recipe"] == "recipe at 50 % of the steps"
            scores = {name for name in run.data.metrics if name.startswith("cross_validation/")}
            assert scores and all(name.startswith(f"{key}/") for name in scores)
            assert any(name.startswith(f"{key}/reference_") for name in scores)


def test_folds_that_cost_more_than_the_training_are_not_trained(
    workplace: Path, make_settings: Make, make_rows: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(
        workplace,
        cross_validation=CrossValidationConfig(n_splits=5, max_cost=1.6),
        augmentation=AugmentationConfig(methods=["word_swap"], share=0.3),
    )
    with caplog.at_level(logging.INFO, "tunetrail"):
        outcome = DataSciencePipeline(settings).run(
            "embedding", frame_of(make_rows("pair"), "embedding"), until="cross_validate"
        )

    step, result = outcome.steps["cross_validation"], outcome.cross_validation
    assert result is not None and result.out_of_fold is not None
    assert "embedding: cross-validation: only 3 of 5 folds are trained" in caplog.text
    assert step["note"] in caplog.text and step["fold_numbers"] == [1, 2, 3]
    assert result.n_splits == len(step["augmentation_effect"]["differences"]) == 3
    assert set(result.out_of_fold.folds) == {1, 2, 3}
    # Each was trained on four fifths, though only three are there.
    assert result.test_ratio == pytest.approx(0.25, abs=0.02)
    assert result.gain is not None
    spread = np.std(result.gain.differences, ddof=1)
    expected = spread * np.sqrt(1 / 3 + result.test_ratio)
    assert result.gain.standard_error == pytest.approx(expected)
