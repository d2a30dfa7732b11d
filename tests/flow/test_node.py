import dataclasses
import json
import shutil
from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.entities import Run
from tests.tracking import client_of, runs_by_family, top_run

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import (
    AdapterConfig,
    CrossValidationConfig,
    FurtherLossesConfig,
    GateConfig,
    Settings,
    TrainingConfig,
)
from tunetrail.errors import ConfigError, DeploymentError, SampleError, SessionError, TrainingError
from tunetrail.evaluation.example_rows import CANDIDATE, REFERENCE, read_example_rows
from tunetrail.samples import SampleKind

DOCUMENTED_STEPS = [
    "validation",
    "cleaning",
    "augmentation",
    "feature_engineering",
    "cross_validation",
    "training",
]
OUR_STEPS = ["evaluation", "comparison", "deployment"]
Make = Callable[..., Settings]
Rows = Callable[[str], list[dict[str, Any]]]


def node(settings: Settings, database: DatabaseManager) -> ModelTrainingNode:
    return ModelTrainingNode(NodeConfig(settings=settings), database)


def runs_of(settings: Settings) -> list[Any]:
    client = client_of(settings.tracking.uri)
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiment_ids, order_by=["start_time"]))


def versions_of(settings: Settings) -> list[Any]:
    return list(client_of(settings.tracking.uri).search_model_versions())


def roots_of(settings: Settings) -> dict[str, Any]:
    """Return the aliases of each registered model that has one."""
    client = client_of(settings.tracking.uri)
    aliases = {}
    for model in client.search_registered_models():
        # A search doesn't fill in the aliases.
        aliases[model.name] = client.get_registered_model(model.name).aliases
    return {name: versions for name, versions in aliases.items() if versions}


def check_failed(settings: Settings, database: DatabaseManager, reason: str) -> None:
    """The last run is marked in both stores, nothing is registered or exported, and no temporary file is left."""
    run = database.training_runs()[-1]
    assert run.state == "failed" and run.reason is not None and reason in run.reason
    runs = runs_of(settings)
    assert {run.info.status for run in runs} == {"FAILED"}
    assert any(reason in run.data.tags["tunetrail.reason"] for run in runs)
    assert roots_of(settings) == {}
    assert not [path for path in Path(settings.model_dir).glob("*/versions/*")]


def test_execute_returns_the_documented_shape(trained: Any) -> None:
    results = trained.results

    assert set(results) == {"session_id", "model_type", "timestamp", "results"}
    assert set(results["results"]) == {"timestamp", "model_type", "session_id", "steps"}
    assert list(results["results"]["steps"]) == DOCUMENTED_STEPS + OUR_STEPS
    for level in (results, results["results"]):
        assert (level["session_id"], level["model_type"]) == ("s1", "all")
        assert datetime.fromisoformat(level["timestamp"]).tzinfo is not None
    for step in results["results"]["steps"].values():
        assert list(step) == ["embedding", "llm"]


def test_execute_returns_plain_json(trained: Any) -> None:
    assert json.loads(json.dumps(trained.results, allow_nan=False)) == trained.results


def test_execute_trains_every_fold_and_the_model_itself(trained: Any) -> None:
    steps = trained.results["results"]["steps"]

    for model_type in ("embedding", "llm"):
        assert steps["cross_validation"][model_type]["n_splits"] == 2
        assert steps["training"][model_type]["steps"] == 3
        assert steps["training"][model_type]["started_from"] == "base"
        assert steps["comparison"][model_type]["against"] == "base"
        assert steps["deployment"][model_type]["version"] == "1"


def test_execute_shows_what_the_language_model_writes_before_and_after(trained: Any) -> None:
    steps = trained.results["results"]["steps"]
    generation = steps["evaluation"]["llm"]["generation"]
    exact_match = generation["metrics"]["exact_match"]

    assert "generation" not in steps["evaluation"]["embedding"]
    assert 0 < generation["answers"] <= steps["evaluation"]["llm"]["split"]["rows"]["test"]
    assert exact_match["after_interval"][0] <= exact_match["after"]
    assert steps["comparison"]["llm"]["metric"] == "bits_per_byte"

    run = next(
        run for run in runs_of(trained.settings) if "evaluation/exact_match" in run.data.metrics
    )
    assert {"evaluation/exact_match/lower", "reference/chrf"} <= set(run.data.metrics)
    assert "answers.json" in run.data.tags["mlflow.loggedArtifacts"]


def test_execute_logs_a_tree_of_runs(trained: Any) -> None:
    runs = {run.info.run_id: run for run in runs_of(trained.settings)}
    paths = set()
    for run in runs.values():
        names, parent = [run.info.run_name], run.data.tags.get("mlflow.parentRunId")
        while parent:
            names.insert(0, runs[parent].info.run_name)
            parent = runs[parent].data.tags.get("mlflow.parentRunId")
        paths.add(" / ".join(names))

    embedding, llm = (
        f"{name} {Path(getattr(trained.settings, name).model).name}"
        for name in ("embedding", "llm")
    )
    top = next(path for path in paths if " / " not in path)

    assert top.startswith("embedding.training.batch_size=16, ")
    assert top.endswith(f" more: {embedding} + {llm} on s1")
    of_families = {path for path in paths if path.count(" / ") == 1}
    assert paths == {
        top,
        *of_families,
        *(f"{path} / fold-{fold}" for path in of_families for fold in (1, 2)),
    }
    # Each is named after its own settings, below the run of both.
    names = sorted(path.removeprefix(f"{top} / ") for path in of_families)
    assert all(name.startswith("batch_size=16, learning_rate=0.001, ") for name in names)
    assert [name.partition(" more: ")[2] for name in names] == [
        f"{embedding} on s1",
        f"{llm} on s1",
    ]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def metrics_under(prefix: str, run: Run) -> dict[str, float]:
    """The metrics of a run whose names begin with `prefix/`, without it."""
    metrics: dict[str, float] = run.data.metrics
    names = [name for name in metrics if name.startswith(f"{prefix}/")]
    return {name.removeprefix(f"{prefix}/"): metrics[name] for name in names}


def test_execute_logs_what_a_person_compares(trained: Any, tmp_path: Path) -> None:
    client = client_of(trained.settings.tracking.uri)
    all_runs = runs_of(trained.settings)
    runs = runs_by_family(all_runs)

    pipeline, embedding, llm = top_run(all_runs), runs["embedding"], runs["llm"]

    assert pipeline.data.params["embedding.training.batch_size"] == "16"
    assert pipeline.data.params["seed"] == "42"
    assert {"embedding/after", "llm/lower", "llm/before", "llm/improvement"} <= set(
        pipeline.data.metrics
    )
    assert {
        "tunetrail.session_id",
        "version.torch",
        "tunetrail.training_run",
        "tunetrail.llm.decision",
    } <= set(pipeline.data.tags)
    assert {artifact.path for artifact in client.list_artifacts(pipeline.info.run_id)} == {
        "config.json",
        "config.yaml",
        "environment",
        # The warning of the preflight that patience can't stop so short a training.
        "log.txt",
        "report",
        "results.json",
    }

    stored = client.download_artifacts(pipeline.info.run_id, "results.json", str(tmp_path))
    assert json.loads(Path(stored).read_text()) == trained.results

    # The pipeline's run sums up each model type with all figures of its comparison.
    for family, run in runs.items():
        compared = metrics_under("comparison", run)
        assert {"confidence", "look", "differing"} <= set(compared)
        assert metrics_under(family, pipeline) == compared
        # Next to the metrics, the parameters that its models were trained with, and no others.
        assert run.data.params[f"{family}.training.batch_size"] == "16"
        sections = {name.partition(".")[0] for name in run.data.params}
        assert sections & {"embedding", "llm", "database", "tracking"} == {family}

    for run in (embedding, llm):
        assert {
            "train/loss",
            "val/loss",
            "train/learning_rate",
            "training/steps",
            "comparison/improvement",
        } <= set(run.data.metrics)
        assert [
            metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")
        ] == [
            1,
            2,
            3,
        ]
        assert run.data.params["base_model_source"] == "local folder"
        assert [dataset_input.tags[0].value for dataset_input in run.inputs.dataset_inputs] == [
            "training",
            "validation",
            "test",
        ]
        assert (
            len({dataset_input.dataset.digest for dataset_input in run.inputs.dataset_inputs}) == 3
        )
        names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert {"learning_curves.png", "comparison.png", "steps"} <= names
        steps = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "steps")}
        assert steps == {f"steps/{name}.json" for name in DOCUMENTED_STEPS + OUR_STEPS}
    assert {
        "evaluation/ndcg_at_10",
        "reference/ndcg_at_10",
        "evaluation/map_at_5",
        "evaluation/effective_rank",
    } <= set(embedding.data.metrics)
    assert "evaluation/metrics.csv" in {
        artifact.path for artifact in client.list_artifacts(embedding.info.run_id, "evaluation")
    }
    # The test rows' queries rank the documents of the whole session.
    sides = trained.results["results"]["steps"]["evaluation"]["embedding"]["split"]["rows"]
    assert embedding.data.metrics["evaluation/documents"] == sum(sides.values())
    assert embedding.data.metrics["evaluation/scored_rows"] == sides["test"]
    assert embedding.data.metrics["evaluation/side_rows"] == sides["test"]
    assert {"evaluation/bits_per_byte", "reference/bits_per_byte"} <= set(llm.data.metrics)


@pytest.mark.parametrize("model_type", ["embedding", "llm"])
def test_execute_keeps_the_scores_of_every_test_row(
    trained: Any, model_type: str, tmp_path: Path
) -> None:
    client = client_of(trained.settings.tracking.uri)
    run = runs_by_family(runs_of(trained.settings))[model_type]
    path = client.download_artifacts(run.info.run_id, "evaluation/rows.parquet", str(tmp_path))

    rows = read_example_rows(Path(path))

    # Not only the primary metric: whatever follows from values of single rows.
    for model, step in ((CANDIDATE, "evaluation"), (REFERENCE, "reference")):
        for name, value in rows.scores(model).metrics.items():
            assert value == pytest.approx(run.data.metrics[f"{step}/{name}"], abs=1e-12, rel=0.0)
    assert rows.run.run_id == run.info.run_id and rows.run.against == "base"
    evaluation = trained.results["results"]["steps"]["evaluation"][model_type]
    assert len(rows.scores().row_ids) == evaluation["split"]["rows"]["test"]
    assert {"cluster", "text_hash", "characters", "tokens", "bytes"} <= set(rows.table)
    # The fixture trains two folds, which hold out every row of the train side once.
    folds = rows.table[rows.table["side"] == "fold"]
    assert set(folds["fold"]) == {1, 2} and len(folds) == evaluation["split"]["rows"]["train"]
    assert folds["row_id"].is_unique and folds["text_hash"].notna().all()
    gain = trained.results["results"]["steps"]["cross_validation"][model_type]["gain"]["comparison"]
    for model, moment in ((CANDIDATE, "after"), (REFERENCE, "before")):
        assert rows.scores(model, "fold").value == pytest.approx(gain[moment], abs=1e-12, rel=0.0)
    assert {"anchor", "positive", "input", "output"}.isdisjoint(rows.table)


@pytest.mark.parametrize("model_type", ["embedding", "llm"])
def test_execute_analyses_the_errors(trained: Any, model_type: str, tmp_path: Path) -> None:
    client = client_of(trained.settings.tracking.uri)
    run = runs_by_family(runs_of(trained.settings))[model_type]
    folder = Path(client.download_artifacts(run.info.run_id, "evaluation", str(tmp_path)))

    examples = json.loads((folder / "examples.json").read_text())
    step = trained.results["results"]["steps"]["comparison"][model_type]
    errors = step["error_analysis"]

    assert {"rows.parquet", "slices.csv", "examples.json"} <= set(
        map(attrgetter("name"), folder.iterdir())
    )
    assert (
        errors["fixed"] + errors["broken"] + errors["right"] + errors["wrong"] == step["examples"]
    )
    assert [errors[name] for name in ("rule", "broken")] == [examples["rule"], examples["broken"]]
    assert len(examples["worst"]) == min(20, errors["broken"] + errors["wrong"]) > 0
    for example in examples["worst"]:
        assert json.loads(example["content"])
        if model_type == "embedding":
            # What stands in the right answer's place is a document, not an anchor.
            assert example["best_rank"] > 1.0 and example["first_instead"].isupper()
    if model_type == "llm":
        assert all(isinstance(example["written"], str) for example in examples["worst"])


def test_execute_registers_a_version_with_lineage_and_moves_root(trained: Any) -> None:
    client = client_of(trained.settings.tracking.uri)
    runs = runs_by_family(runs_of(trained.settings))
    for model_type in ("embedding", "llm"):
        version = client.get_model_version_by_alias(model_type, "root")
        assert str(version.version) == "1" and version.run_id == runs[model_type].info.run_id
        assert (
            version.tags["tunetrail.decision"] == "promoted"
            and version.tags["tunetrail.session_id"] == "s1"
        )
        assert version.tags["tunetrail.previous_root"] == "none"


def test_execute_writes_the_ledger_and_the_database(trained: Any) -> None:
    (run,) = trained.database.training_runs("s1")

    assert (run.state, run.reason, run.result) == ("succeeded", None, trained.results)

    ledger = trained.database.promotions()
    assert [
        (promotion.model_name, promotion.version, promotion.previous_version, promotion.decision)
        for promotion in ledger
    ] == [
        ("embedding", "1", None, "promoted"),
        ("llm", "1", None, "promoted"),
    ]

    steps = trained.results["results"]["steps"]
    for promotion in ledger:
        assert promotion.run_id == run.run_id and promotion.session_id == "s1"
        assert promotion.after == pytest.approx(steps["comparison"][promotion.model_name]["after"])


def test_execute_exports_models_that_the_usual_libraries_load(trained: Any) -> None:
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = Path(trained.settings.model_dir)
    assert SentenceTransformer(str(root / "embedding" / "root"), device="cpu").encode(
        "a text", show_progress_bar=False
    ).shape == (32,)
    tokenizer = AutoTokenizer.from_pretrained(root / "llm" / "root")
    model = AutoModelForCausalLM.from_pretrained(root / "llm" / "root")
    generated = model.generate(
        **tokenizer("a", return_tensors="pt"), max_new_tokens=2, do_sample=False
    )
    assert generated.shape[1] >= 2


def test_execute_leaves_no_working_files(trained: Any) -> None:
    assert list(Path(trained.settings.output_dir).rglob("*")) == []
    assert {path.name for path in (trained.folder / "models" / "embedding").iterdir()} == {
        "root",
        "versions",
    }


@pytest.mark.processes
def test_execute_goes_on_from_root_the_second_time(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace)
    for version in ("1", "2", "3"):
        steps = node(settings, database).execute(
            {"session_id": session, "model_type": "embedding"}
        )["results"]["steps"]
        assert steps["deployment"]["embedding"]["version"] == version

    assert steps["training"]["embedding"]["started_from"] == "models:/embedding/2"
    assert steps["comparison"]["embedding"]["against"] == "models:/embedding/2"
    assert steps["deployment"]["embedding"]["previous_root"] == "2"

    folder = Path(settings.model_dir) / "embedding"
    assert (folder / "root").readlink() == Path("versions/3")
    assert sorted(path.name for path in (folder / "versions").iterdir()) == ["2", "3"]

    again = dataclasses.replace(
        settings, embedding=dataclasses.replace(settings.embedding, start_from="base")
    )
    steps = node(again, database).execute({"session_id": session, "model_type": "embedding"})[
        "results"
    ]["steps"]

    assert steps["training"]["embedding"]["started_from"] == "base"
    assert steps["comparison"]["embedding"]["against"] == "models:/embedding/3"


def test_execute_leaves_root_where_the_gate_refuses(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace, gate=GateConfig(minimum_improvement=100.0))
    steps = node(settings, database).execute({"session_id": session, "model_type": "embedding"})[
        "results"
    ]["steps"]

    assert (
        steps["deployment"]["embedding"]["decision"],
        steps["deployment"]["embedding"]["exported_to"],
    ) == (
        "refused",
        None,
    )
    assert len(versions_of(settings)) == 1
    assert roots_of(settings) == {}
    assert not list(Path(settings.model_dir).iterdir())
    assert [promotion.decision for promotion in database.promotions()] == ["refused"]


@pytest.mark.processes
def test_execute_asks_for_more_at_every_look_at_the_same_rows(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(
        workplace, gate=GateConfig(minimum_improvement=100.0, minimum_test_clusters=1)
    )
    request = {"session_id": session, "model_type": "embedding"}

    first, second = (node(settings, database).execute(request)["results"] for _ in range(2))

    comparison = first["steps"]["comparison"]["embedding"]
    assert (comparison["look"], comparison["confidence"]) == (1.0, pytest.approx(0.95))
    assert "look" not in first["steps"]["deployment"]["embedding"]["reason"]

    comparison = second["steps"]["comparison"]["embedding"]
    assert (comparison["look"], comparison["confidence"]) == (2.0, pytest.approx(0.975))
    reason = second["steps"]["deployment"]["embedding"]["reason"]
    assert reason.endswith("; look 2 on these rows: 97.5 % interval")


@pytest.mark.processes
@pytest.mark.parametrize("shape", ["score", "pair with some negatives", "label", "vector", "text"])
def test_execute_trains_an_embedding_model_on_every_shape(
    database: DatabaseManager, workplace: Path, make_settings: Make, make_rows: Rows, shape: str
) -> None:
    assert database.ingest("s1", make_rows(shape), SampleKind.EMBEDDING).rejected == 0

    results = node(make_settings(workplace), database).execute(
        {"session_id": "s1", "model_type": "embedding"}
    )
    steps = results["results"]["steps"]

    assert steps["training"]["embedding"]["steps"] == 3

    json.dumps(results, allow_nan=False)


@pytest.mark.processes
@pytest.mark.parametrize("shape", ["mixed", "chat", "document", "preference", "verdict"])
def test_execute_trains_a_language_model_on_every_shape(
    database: DatabaseManager, workplace: Path, make_settings: Make, make_rows: Rows, shape: str
) -> None:
    assert database.ingest("s1", make_rows(shape), SampleKind.LLM).rejected == 0
    results = node(make_settings(workplace), database).execute(
        {"session_id": "s1", "model_type": "llm"}
    )
    assert results["results"]["steps"]["training"]["llm"]["steps"] == 3


@pytest.mark.processes
def test_execute_trains_a_language_model_without_adapters(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace)
    settings.llm.adapter = AdapterConfig(kind="none")
    results = node(settings, database).execute({"session_id": session, "model_type": "llm"})
    assert results["results"]["steps"]["deployment"]["llm"]["decision"] == "promoted"


def test_execute_wants_one_shape_of_a_session_with_several(
    database: DatabaseManager, workplace: Path, make_settings: Make, make_rows: Rows
) -> None:
    for shape in ("pair", "label"):
        database.ingest("s1", make_rows(shape), SampleKind.EMBEDDING)
    settings = make_settings(workplace)

    with pytest.raises(
        SampleError,
        match=r"must all have one shape, got label \(\d+\), pair \(48\).*embedding.shape=label",
    ):
        node(settings, database).execute({"session_id": "s1", "model_type": "embedding"})

    check_failed(settings, database, "must all have one shape")
    settings.embedding.shape = "pair"
    request = {"session_id": "s1", "model_type": "embedding"}
    prepared = node(settings, database).prepare(request, workplace / "prepared")

    assert prepared.rows_in == 48

    settings.embedding.shape = "score"

    with pytest.raises(
        SampleError,
        match=r"embedding.shape must fit the session's samples \(label, pair\), got 'score'",
    ):
        node(settings, database).execute({"session_id": "s1", "model_type": "embedding"})


@pytest.mark.processes
def test_execute_learns_the_texts_of_a_session_with_preferences_and_names_the_others(
    database: DatabaseManager,
    workplace: Path,
    make_settings: Make,
    make_rows: Rows,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for shape in ("mixed", "preference"):
        database.ingest("s1", make_rows(shape), SampleKind.LLM)
    settings = make_settings(workplace)
    request = {"session_id": "s1", "model_type": "llm"}

    rows_and_metric = {}
    for objective in ("preference", "supervised", "auto"):
        settings.llm.objective = objective
        steps = node(settings, database).execute(request)["results"]["steps"]
        rows_and_metric[objective] = (
            steps["validation"]["llm"]["rows_in"],
            steps["evaluation"]["llm"]["metric"],
        )

    assert rows_and_metric == {
        "preference": (48, "preference_accuracy"),
        "supervised": (72, "bits_per_byte"),
        "auto": (72, "bits_per_byte"),
    }
    assert "not learnt: 48 preference (llm.objective=preference learns them)" in caplog.text


@pytest.mark.processes
def test_execute_works_with_few_rows(
    database: DatabaseManager, workplace: Path, make_settings: Make, make_rows: Rows
) -> None:
    """The gate says what is missing."""
    database.ingest("s1", make_rows("pair")[:16], SampleKind.EMBEDDING)
    settings = make_settings(workplace, gate=GateConfig())
    results = node(settings, database).execute({"session_id": "s1", "model_type": "embedding"})

    steps = results["results"]["steps"]

    assert (
        steps["comparison"]["embedding"]["lower"] is None
        and steps["deployment"]["embedding"]["decision"] == "refused"
    )
    reason = steps["deployment"]["embedding"]["reason"]
    assert "too few rows to decide" in reason and "gate.minimum_test_clusters=20 needs" in reason

    json.dumps(results, allow_nan=False)
    assert database.promotions()[0].decision == "refused"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_execute_refuses_too_few_rows_in_words(
    database: DatabaseManager, workplace: Path, make_settings: Make, make_rows: Rows, count: int
) -> None:
    database.ingest("s1", make_rows("pair")[:count], SampleKind.EMBEDDING)
    settings = make_settings(workplace, cross_validation=CrossValidationConfig(n_splits=2))
    with pytest.raises((SampleError, ConfigError)):
        node(settings, database).execute({"session_id": "s1", "model_type": "embedding"})
    check_failed(settings, database, "Error: ")


def test_execute_records_a_loss_that_is_not_finite(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    settings = make_settings(workplace)
    broken = workplace / "broken"
    shutil.copytree(settings.embedding.model, broken)
    (file,) = broken.rglob("*.safetensors")
    weights = load_file(file)
    weights["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    settings.embedding.model = str(broken)
    with pytest.raises(TrainingError, match="train/loss must be finite, got nan"):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})
    check_failed(settings, database, "train/loss must be finite")


@pytest.mark.processes
def test_execute_records_a_learning_rate_that_is_too_high_or_ends_well(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace)
    settings.embedding.training = TrainingConfig(
        batch_size=16, learning_rate=1.0, warmup_steps=0, max_steps=12, max_grad_norm=0.0
    )
    try:
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})
    except TrainingError:
        check_failed(settings, database, "must be finite")
    else:
        assert database.training_runs()[-1].state == "succeeded"


@pytest.mark.processes
def test_execute_records_a_root_whose_files_are_gone(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = make_settings(workplace)
    node(settings, database).execute({"session_id": session, "model_type": "embedding"})
    shutil.rmtree(workplace / "mlartifacts")

    with pytest.raises(
        DeploymentError, match=r"models:/embedding/1 can't be loaded: .* Restore its files"
    ):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})
    assert [run.state for run in database.training_runs()] == ["succeeded", "failed"]
    assert (workplace / "models" / "embedding" / "root" / "config.json").exists()


def test_execute_records_an_output_folder_that_cannot_be_written(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    (workplace / "file").touch()
    settings = make_settings(workplace, output_dir=str(workplace / "file" / "below"))

    with pytest.raises((TrainingError, ConfigError), match=r"output_dir .*file/below"):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})
    assert database.training_runs()[-1].state == "failed"
    assert {run.info.status for run in runs_of(settings)} == {"FAILED"}
    assert roots_of(settings) == {}


def test_execute_starts_no_run_whose_model_could_not_be_exported(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    (workplace / "file").touch()
    settings = make_settings(workplace, model_dir=str(workplace / "file" / "below"))

    with pytest.raises(ConfigError, match=r"model_dir .*file/below"):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})
    assert database.training_runs() == []


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        ({}, ConfigError, "session_id must be given"),
        (
            {"session_id": "s1", "model_typ": "all"},
            ConfigError,
            "the request has no key 'model_typ'. Did you mean 'model_type'",
        ),
        (
            {"session_id": "s1", "model_type": "both"},
            ConfigError,
            "model_type must be one of embedding, llm, all, got 'both'",
        ),
        ({"session_id": "a/b"}, ConfigError, "session_id must be 1 to 128 letters"),
        ({"session_id": 3}, ConfigError, "session_id must be 1 to 128 letters"),
        (
            {"session_id": "s9"},
            SessionError,
            "session_id must name a session of the database, got 's9'",
        ),
    ],
)
def test_execute_refuses_a_wrong_request_before_it_begins(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make,
    request_: dict[str, Any], error: type[Exception], message: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        node(make_settings(workplace), database).execute(request_)
    assert database.training_runs() == []


@pytest.mark.processes
def test_basic_usage_of_the_specification_runs_as_written(
    database: DatabaseManager, session: str, workplace: Path, tiny_embedding_model: str, tiny_language_model: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """But for the import line, the session and the tiny models; every other setting is the default."""
    settings = Settings()
    monkeypatch.setattr(settings.tracking, "uri", f"sqlite:///{workplace}/mlflow.db")
    db_manager = database

    # Initialize training node
    training_node = ModelTrainingNode(
        config=NodeConfig(
            model_dir="models",
            embedding_model=tiny_embedding_model,
            llm_model=tiny_language_model,
            settings=settings,
        ),
        db_manager=db_manager,
    )

    # Execute training
    results = training_node.execute({"session_id": session, "model_type": "all"})

    assert list(results["results"]["steps"])[:6] == DOCUMENTED_STEPS
    assert len(results["results"]["steps"]["cross_validation"]["llm"]["folds"]) == 5


@pytest.mark.slow
def test_basic_usage_of_the_specification_runs_with_the_real_models(
    database: DatabaseManager, session: str
) -> None:
    """deepseek-1.5b must be in the hub's cache: 3.5 GB."""
    training_node = ModelTrainingNode(
        config=NodeConfig(
            model_dir="models",
            embedding_model="sentence-transformers/all-MiniLM-L6-v2",
            llm_model="deepseek-1.5b",
        ),
        db_manager=database,
    )
    try:
        results = training_node.execute({"session_id": session, "model_type": "all"})
    except Exception as error:
        if "deepseek" in str(error) and "was not found" in str(error):
            pytest.skip("deepseek-1.5b is not on this machine")
        raise

    assert list(results["results"]["steps"])[:6] == DOCUMENTED_STEPS


@pytest.mark.processes
def test_execute_trains_on_further_shapes_and_scores_the_chosen_one(
    database: DatabaseManager, make_settings: Make, make_rows: Rows, workplace: Path
) -> None:
    for shape in ("pair", "score", "label"):
        rows = make_rows(shape)
        if shape == "score":
            rows = [
                {**row, "sentence1": row["sentence2"], "sentence2": row["sentence1"]}
                for row in rows
            ]
        if shape == "label":
            rows = [
                {**row, "text": f"{row['text']} on {days} other days"}
                for days, row in enumerate(rows)
            ]
            rows.append({**rows[0], "text": f"  {rows[0]['text']}"})
        database.ingest("s1", rows, SampleKind.EMBEDDING)
    settings = make_settings(workplace, cross_validation=CrossValidationConfig(n_splits=2))
    embedding = dataclasses.replace(
        settings.embedding,
        shape="pair",
        also_train=FurtherLossesConfig(score="angle", label="auto"),
    )
    embedding = dataclasses.replace(
        embedding, training=dataclasses.replace(embedding.training, max_steps=-1)
    )
    settings = dataclasses.replace(settings, embedding=embedding)
    results = node(settings, database).execute({"session_id": "s1", "model_type": "embedding"})
    steps = results["results"]["steps"]
    run = runs_by_family(runs_of(settings))["embedding"]
    client = client_of(settings.tracking.uri)
    account = json.loads(
        Path(
            client.download_artifacts(run.info.run_id, "steps/further_rows.json", str(workplace))
        ).read_text()
    )

    sides = steps["evaluation"]["embedding"]["split"]

    assert set(account) == {"score", "label"}
    assert [
        artifact.path
        for artifact in client.list_artifacts(run.info.run_id, "data/score")
        if artifact.path.endswith("html")
    ]

    set_aside = client.download_artifacts(
        run.info.run_id, "data/label/set_aside.parquet", str(workplace)
    )
    assert len(pd.read_parquet(set_aside)) == account["label"]["cleaning"]["set_aside"] == 1

    further_rows = account["score"]["rows"] + account["label"]["rows"]
    assert steps["training"]["embedding"]["rows"] == sides["rows"]["train"] + further_rows
    # a score's second sentence is a pair's anchor: none is learnt from that the model is scored on
    assert account["score"]["twins_of_held_out"] and account["score"]["rows"] > 0
    assert (
        steps["evaluation"]["embedding"]["metric"]
        in steps["evaluation"]["embedding"]["candidate"]["metrics"]
    )
    assert len(steps["cross_validation"]["embedding"]["folds"]) == 2


def test_execute_refuses_a_further_shape_that_the_session_lacks(
    database: DatabaseManager, session: str, make_settings: Make, workplace: Path
) -> None:
    settings = make_settings(workplace)
    embedding = dataclasses.replace(
        settings.embedding, shape="pair", also_train=FurtherLossesConfig(score="auto")
    )
    settings = dataclasses.replace(settings, embedding=embedding)

    with pytest.raises(
        SampleError,
        match=r"embedding\.also_train\.score must be null if the session has no score samples, got 'auto'",
    ):
        node(settings, database).execute({"session_id": session, "model_type": "embedding"})
