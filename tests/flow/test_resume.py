"""A run that ends anywhere and is resumed: the same results, rows, weights, versions and ledger as one that did not."""

import copy
import dataclasses
import hashlib
import itertools
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.flow.conftest import ending_at
from tests.tracking import client_of, runs_by_family

from tunetrail import DatabaseManager, DataSciencePipeline, ModelTrainingNode, NodeConfig
from tunetrail.config import (
    AugmentationConfig,
    CrossValidationConfig,
    FeatureEngineeringConfig,
    HardNegativesConfig,
    Settings,
)
from tunetrail.data.rows import rows_frame
from tunetrail.errors import DeploymentError, UserError
from tunetrail.samples import SampleKind
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker

# Whole trainings, some seconds each.
pytestmark = pytest.mark.processes

Make = Callable[..., Settings]
TIMES = ("seconds", "history", "preflight")
"""What of a training's result two runs may have differently: it holds times, or the memory and disk of the moment."""


def node(settings: Settings, database: DatabaseManager) -> ModelTrainingNode:
    return ModelTrainingNode(NodeConfig(settings=settings), database)


def runs_of(settings: Settings) -> list[Any]:
    client = client_of(settings.tracking.uri)
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiment_ids, order_by=["start_time"]))


def weights(settings: Settings, model_type: str) -> str:
    """SHA-256 of the exported root's weights."""
    (file,) = (Path(settings.model_dir) / model_type / "root").rglob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def steps_of(results: dict[str, Any]) -> dict[str, Any]:
    """Return all that must be the same in two runs."""
    steps = copy.deepcopy(results["results"]["steps"])
    for step in steps["training"].values():
        for name in TIMES:
            step.pop(name)
    for step in steps["deployment"].values():
        step.pop("mlflow_run_id")
        step.pop("exported_to")
        step.pop("digest")  # MLflow writes the id of the run into the files
    return steps


def curves(settings: Settings) -> dict[str, list[tuple[int, float]]]:
    """Every point of the metrics that don't depend on the clock, as MLflow holds them for the model type's run."""
    client = client_of(settings.tracking.uri)
    run = runs_by_family(runs_of(settings))["embedding"]
    prefixes = (
        "train/loss",
        "train/learning_rate",
        "val/",
        "cleaning/",
        "cross_validation/",
        "evaluation/",
        "comparison/",
    )
    return {
        name: [
            (point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)
        ]
        for name in sorted(run.data.metrics)
        if name.startswith(prefixes)
    }


def thorough(make: Make, folder: Path) -> Settings:
    """Settings in which every step has something to do."""
    return make(
        folder,
        augmentation=AugmentationConfig(methods=["word_swap"], share=0.3),
        feature_engineering=FeatureEngineeringConfig(
            hard_negatives=HardNegativesConfig(enabled=True)
        ),
        cross_validation=CrossValidationConfig(n_splits=2, budget=0.4),
    )


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory,
    _tracking_template: Path,
    make_settings: Make,
    make_rows: Any,
) -> tuple[Settings, dict[str, Any]]:
    """A run that nothing happened to, to compare with."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    shutil.copy(_tracking_template, folder / "mlflow.db")
    settings = thorough(make_settings, folder)
    with (
        pytest.MonkeyPatch.context() as environment,
        DatabaseManager(f"sqlite:///{folder}/tunetrail.db") as manager,
    ):
        environment.setenv("TUNETRAIL_CACHE", str(folder / ".cache"))
        manager.ingest("s1", make_rows("pair"), SampleKind.EMBEDDING)
        results = node(settings, manager).execute({"session_id": "s1", "model_type": "embedding"})
    return settings, results


@pytest.mark.parametrize(
    ("message", "finished_steps"),
    [
        pytest.param("validation, cleaning and split", [], marks=pytest.mark.slow),
        pytest.param(
            "feature engineering",
            ["validation", "cleaning", "augmentation"],
            marks=pytest.mark.slow,
        ),
        (
            "cross-validation, fold-2 of 2",
            ["validation", "cleaning", "augmentation", "feature_engineering"],
        ),
        pytest.param("training from base", 5, marks=pytest.mark.slow),
        ("evaluation on", 6),
        pytest.param("deployment, candidate", 8, marks=pytest.mark.slow),
    ],
)
def test_resume_goes_on_after_the_steps_that_are_finished(
    uninterrupted: tuple[Settings, dict[str, Any]], database: DatabaseManager, session: str, workplace: Path,
    make_settings: Make, message: str, finished_steps: Any, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    settings = thorough(make_settings, workplace)
    with ending_at(message, SystemExit(143)), pytest.raises(SystemExit):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})
    (interrupted,) = database.training_runs()
    assert (interrupted.state, interrupted.reason) == ("interrupted", "stopped by SIGTERM")
    assert interrupted.mlflow_run_id is not None
    assert f"`tunetrail resume {interrupted.mlflow_run_id}` continues" in caplog.text
    run_of_type = runs_by_family(runs_of(settings))["embedding"].info.run_id
    assert run_of_type == interrupted.mlflow_run_id
    steps = list(DataSciencePipeline(settings).run_state(run_of_type).steps)
    if isinstance(finished_steps, int):
        finished_steps = list(uninterrupted[1]["results"]["steps"])[:finished_steps]
    assert steps == finished_steps

    caplog.clear()
    with caplog.at_level(logging.INFO, "tunetrail"):
        results = node(Settings(tracking=settings.tracking), database).resume(
            interrupted.mlflow_run_id
        )
    assert ("validation, cleaning and split" in caplog.text) == ("cleaning" not in steps)
    assert ("embedding: feature engineering" in caplog.text) == ("feature_engineering" not in steps)
    begins_with_folds = "cross_validation" not in steps and "fold-2" not in message
    assert ("cross-validation, fold-1 of" in caplog.text) == begins_with_folds
    assert ("evaluation on" in caplog.text) == ("comparison" not in steps)

    assert steps_of(results) == steps_of(uninterrupted[1])
    assert weights(settings, "embedding") == weights(uninterrupted[0], "embedding")
    assert curves(settings) == curves(uninterrupted[0])
    assert [step for step, _ in curves(settings)["train/loss"]] == [1, 2, 3]
    (run,) = database.training_runs()
    assert (run.state, run.reason, run.result) == ("succeeded", None, results)
    assert [promotion.decision for promotion in database.promotions()] == ["promoted"]
    runs = {run.info.run_name: run for run in runs_of(settings)}
    # A fold that was interrupted is gone, and no run is there twice.
    assert set(runs) == {run.info.run_name for run in runs_of(uninterrupted[0])}
    assert len(runs) == len(runs_of(settings))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    tags = runs_by_family(runs.values())["embedding"].data.tags
    assert (tags["tunetrail.resumed"], tags["tunetrail.state"]) == ("1", "succeeded")
    assert list(Path(settings.output_dir).iterdir()) == []


@pytest.mark.processes
def test_resume_keeps_finished_folds_and_goes_on_within_the_one_that_was_interrupted(
    workplace: Path, tmp_path: Path, database: DatabaseManager, session: str, make_settings: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folds = CrossValidationConfig(n_splits=3, budget=1.0, max_cost=4.0)
    undisturbed = make_settings(tmp_path / "undisturbed", cross_validation=folds)
    undisturbed.tracking = dataclasses.replace(
        undisturbed.tracking, uri=f"sqlite:///{workplace}/mlflow.db", experiment="undisturbed"
    )
    settings = make_settings(workplace, cross_validation=folds)
    undisturbed.embedding.start_from = settings.embedding.start_from = "base"
    request = {"session_id": session, "model_type": "embedding"}
    expected = node(undisturbed, database).execute(request)
    trained: list[tuple[str, int]] = []
    log_metrics = TrackedRun.log_metrics

    def logged(run: TrackedRun, metrics: Any, step: int = 0) -> None:
        """Remember which steps are trained; end within the second fold, once."""
        log_metrics(run, metrics, step)
        if "train/loss" in metrics:
            name = run.tracker.client.get_run(run.run_id).info.run_name
            trained.append((name, step))
            if name == "fold-2" and step == 2 and len(trained) == 5:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(TrackedRun, "log_metrics", logged)
    with pytest.raises(SystemExit):
        node(settings, database).execute(request)

    results = node(settings, database).resume(database.training_runs()[-1].run_id)

    each_fold = [("fold-1", 1), ("fold-1", 2), ("fold-1", 3), ("fold-2", 1), ("fold-2", 2)]
    assert trained[:5] == each_fold
    assert trained[5:7] == [("fold-2", 3), ("fold-3", 1)]
    steps, expected_steps = results["results"]["steps"], expected["results"]["steps"]
    assert steps["cross_validation"] == expected_steps["cross_validation"]
    candidate = expected_steps["evaluation"]["embedding"]["candidate"]
    assert steps["evaluation"]["embedding"]["candidate"] == candidate
    assert weights(settings, "embedding") == weights(undisturbed, "embedding")
    runs = [run.info for run in runs_of(settings) if run.info.run_name.startswith("fold")]
    states = [
        (run.run_name, run.status) for run in runs if run.experiment_id == runs[-1].experiment_id
    ]
    assert states == [("fold-1", "FINISHED"), ("fold-2", "FINISHED"), ("fold-3", "FINISHED")]


@pytest.mark.processes
def test_resume_trains_only_the_model_type_that_was_not_finished(
    trained: Any, database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(
        workplace, cross_validation=CrossValidationConfig(n_splits=2, budget=0.5)
    )

    with ending_at("llm: training from", SystemExit(143)), pytest.raises(SystemExit):
        node(settings, database).execute({"session_id": session, "model_type": "all"})

    before = runs_by_family(runs_of(settings))
    assert (before["embedding"].info.status, before["llm"].info.status) == ("FINISHED", "KILLED")

    results = node(settings, database).resume(before["embedding"].info.run_id)
    assert steps_of(results) == steps_of(trained.results)
    assert list(results["results"]["steps"]["training"]) == ["embedding", "llm"]

    after = {run.info.run_id: run for run in runs_of(settings)}
    untouched = after[before["embedding"].info.run_id]

    assert untouched.info.end_time == before["embedding"].info.end_time
    assert "tunetrail.resumed" not in untouched.data.tags
    assert after[before["llm"].info.run_id].info.status == "FINISHED"
    assert [(promotion.model_name, promotion.version) for promotion in database.promotions()] == [
        ("embedding", "1"),
        ("llm", "1"),
    ]
    for model_type in ("embedding", "llm"):
        assert weights(settings, model_type) == weights(trained.settings, model_type)


def test_resume_begins_a_model_type_that_had_not_begun(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace)

    with ending_at("embedding: deployment, candidate", SystemExit(143)), pytest.raises(SystemExit):
        node(settings, database).execute({"session_id": session, "model_type": "all"})
    assert list(runs_by_family(runs_of(settings))) == ["embedding"] and len(runs_of(settings)) == 2

    results = node(settings, database).resume(database.training_runs()[0].run_id)
    assert list(results["results"]["steps"]["deployment"]) == ["embedding", "llm"]
    assert {run.info.status for run in runs_of(settings)} == {"FINISHED"}


def test_resume_goes_on_after_a_failure_that_was_fixed(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    blocked = workplace / "models" / "embedding" / "versions"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where a folder should be")
    settings = make_settings(workplace)

    with pytest.raises(DeploymentError, match="model_dir"):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})

    (failed,) = database.training_runs()
    assert failed.state == "failed" and failed.mlflow_run_id is not None

    with pytest.raises(DeploymentError, match="model_dir"):
        node(settings, database).resume(failed.mlflow_run_id)

    blocked.unlink()
    node(settings, database).resume(failed.mlflow_run_id)

    (run,) = database.training_runs()
    assert run.state == "succeeded" and [
        promotion.version for promotion in database.promotions()
    ] == ["1"]

    pipeline = next(run for run in runs_of(settings) if run.info.run_id == failed.mlflow_run_id)
    assert pipeline.data.tags["tunetrail.resumed"] == "2"


def test_resume_trains_on_the_rows_of_then(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make, make_rows: Any
) -> None:
    settings = make_settings(workplace)

    with ending_at("training from", SystemExit(143)), pytest.raises(SystemExit):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})

    new = [{"anchor": f"new {row['text']}", "positive": row["text"]} for row in make_rows("text")]
    database.ingest(session, new, SampleKind.EMBEDDING)
    results = node(settings, database).resume(database.training_runs()[0].run_id)

    assert results["results"]["steps"]["validation"]["embedding"]["rows_in"] == 48


def test_resume_uses_the_configuration_of_then(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace)

    with ending_at("validation, cleaning and split", SystemExit(143)), pytest.raises(SystemExit):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})

    later = make_settings(workplace, seed=1, output_dir=str(workplace / "other"))
    later.embedding.training = dataclasses.replace(later.embedding.training, max_steps=1)
    results = node(later, database).resume(database.training_runs()[0].run_id)

    assert (
        results["results"]["steps"]["training"]["embedding"]["steps"] == 3
        and not (workplace / "other").exists()
    )


@pytest.mark.processes
def test_resume_trains_from_the_root_of_then_and_compares_with_the_root_of_now(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace)
    request = {"session_id": session, "model_type": "embedding"}
    node(settings, database).execute(request)

    with ending_at("training from models:/embedding/1", SystemExit(143)), pytest.raises(SystemExit):
        node(settings, database).execute(request)

    interrupted = database.training_runs()[-1].run_id
    node(settings, database).execute(request)
    steps = node(settings, database).resume(interrupted)["results"]["steps"]

    assert steps["training"]["embedding"]["started_from"] == "models:/embedding/1"
    assert steps["comparison"]["embedding"]["against"] == "models:/embedding/2"

    deployment = steps["deployment"]["embedding"]
    assert (deployment["version"], deployment["previous_root"]) == ("3", "2")


@pytest.mark.processes
def test_resume_compares_again_where_root_moved_before_the_decision(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    """The version that was registered, but could not become root, is taken; there is no second one."""
    settings = make_settings(workplace)
    request = {"session_id": session, "model_type": "embedding"}
    node(settings, database).execute(request)

    with ending_at("deployment, candidate", SystemExit(143)), pytest.raises(SystemExit):
        node(settings, database).execute(request)

    interrupted = database.training_runs()[-1]
    client = client_of(settings.tracking.uri)
    run_of_type = runs_by_family(runs_of(settings))["embedding"].info.run_id
    source = client.get_model_version("embedding", "1").source
    client.create_model_version("embedding", source=source, run_id=run_of_type)
    client.create_model_version("embedding", source=source, tags={"tunetrail.base_model": "x"})
    client.set_registered_model_alias("embedding", "root", "3")
    steps = node(settings, database).resume(interrupted.run_id)["results"]["steps"]

    assert steps["comparison"]["embedding"]["against"] == "models:/embedding/3"

    deployment = steps["deployment"]["embedding"]
    assert (deployment["version"], deployment["previous_root"]) == ("2", "3")
    assert len(client.search_model_versions("name = 'embedding'")) == 3
    assert str(client.get_model_version_by_alias("embedding", "root").version) == "2"
    assert [
        (promotion.version, promotion.previous_version) for promotion in database.promotions()
    ] == [
        ("1", None),
        # The move in MLflow was noticed and written down.
        ("3", "1"),
        ("2", "3"),
    ]


@pytest.mark.parametrize("promote", [True, False])
def test_resume_ends_a_deployment_that_was_interrupted_right_after_the_decision(
    workplace: Path, make_settings: Make, make_rows: Any, promote: bool
) -> None:
    """Root has moved (or was refused), the caller doesn't know it yet, and the model directory hasn't followed."""
    settings = make_settings(workplace)
    settings.gate.minimum_improvement = -10.0 if promote else 10.0
    pipeline, tracker = DataSciencePipeline(settings), Tracker(settings.tracking)
    with DatabaseManager(f"sqlite:///{workplace}/tunetrail.db") as manager:
        manager.ingest("s1", make_rows("pair"), SampleKind.EMBEDDING)
        chunks = manager.read_samples("s1", SampleKind.EMBEDDING)
        stored_samples = list(itertools.chain.from_iterable(chunks))
    rows = rows_frame((stored.row_id, stored.sample) for stored in stored_samples)

    def killed(outcome: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.run("embedding", rows, on_decision=killed)
    assert not (workplace / "models" / "embedding" / "root").exists()
    (run,) = runs_of(settings)
    outcomes: list[Any] = []
    resumed = tracker.run(run.info.run_id)
    outcome = pipeline.run("embedding", rows, on_decision=outcomes.append, resumed=resumed)
    deployment = outcome.deployment
    assert deployment is not None
    assert [outcome.version for outcome in outcomes] == [deployment.version]
    assert (deployment.version.version, deployment.previous_root) == ("1", None)
    assert deployment.decision.promote == promote
    assert outcome.state == ("promoted" if promote else "refused")
    assert len(client_of(settings.tracking.uri).search_model_versions("name = 'embedding'")) == 1
    assert (workplace / "models" / "embedding" / "root" / "config.json").exists() == promote
    assert list(Path(settings.output_dir).iterdir()) == []


def test_resume_refuses_what_can_not_go_on(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    """Each in one line, with the exit code 2, and nothing is changed in the stores."""
    settings = make_settings(workplace)
    with ending_at("training from", SystemExit(143)), pytest.raises(SystemExit):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})
    run_id = database.training_runs()[0].mlflow_run_id
    assert run_id is not None

    def refusal() -> str:
        with pytest.raises(UserError) as raised:
            node(settings, database).resume(run_id)
        assert raised.value.exit_code == 2 and "\n" not in str(raised.value)
        assert database.training_runs()[0].state == "interrupted"
        return str(raised.value)

    (folder,) = Path(settings.output_dir).iterdir()
    state = (folder / "state.json").read_text()
    (folder / "state.json").write_text(state[:100])
    assert "state.json must be readable to resume the run" in refusal()
    folder.rename(workplace / "moved")
    assert f"{folder} must hold the state of the run, but there is no state.json" in refusal()
    (workplace / "moved").rename(folder)
    (folder / "state.json").write_text(state)
    node(settings, database).resume(run_id)
    with pytest.raises(UserError, match="has succeeded: nothing is left to do"):
        node(settings, database).resume(run_id)


def test_resume_refuses_rows_that_are_broken_and_can_be_given_up(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace)

    with ending_at("training from", SystemExit(143)), pytest.raises(SystemExit):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})

    (folder,) = Path(settings.output_dir).iterdir()
    (folder / "train.parquet").write_bytes(b"PAR1")

    with pytest.raises(UserError, match=r"train.parquet must be readable to resume the run"):
        node(settings, database).resume(database.training_runs()[0].run_id)
    assert database.training_runs()[0].state == "interrupted" and folder.exists()

    shutil.rmtree(folder)
    node(settings, database).execute({"session_id": session, "model_type": "embedding"})

    assert [run.state for run in database.training_runs()] == ["interrupted", "succeeded"]
