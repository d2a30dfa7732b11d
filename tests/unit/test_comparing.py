import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.commands import CallMain

import tunetrail
from tunetrail.comparing import compare, log_comparison
from tunetrail.config import TrackingConfig
from tunetrail.errors import UserError
from tunetrail.evaluation.example_rows import (
    REFERENCE,
    ROWS_ARTIFACT,
    ExampleRows,
    ScoredRun,
    write_example_rows,
)
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker

ROWS = 40
VALUES = np.linspace(0.2, 0.8, ROWS)
NOISE = np.random.default_rng(0).normal(scale=0.05, size=ROWS)


def log_rows(
    tracker: Tracker,
    folder: Path,
    gain: float,
    *,
    parent: TrackedRun | None = None,
    name: str = "embedding",
    model_type: str = "embedding",
    against: str = "base",
    reference_gain: float = 0.0,
    prefix: str = "text",
) -> str:
    """Log the rows of a run that scores `gain` more than the base model, and return its id."""
    run = tracker.start_run(
        name,
        parent_run_id=parent.run_id if parent else None,
        tags={"tunetrail.model_type": model_type},
    )
    reference, candidate = VALUES + reference_gain * (1.0 + NOISE), VALUES + gain + NOISE
    scored = ScoredRun(
        model_type=model_type,
        shape="pair",
        metric="ndcg_at_10",
        against=against,
        run_id=run.run_id,
        metrics={"ndcg_at_10": float(candidate.mean())},
        reference_metrics={"ndcg_at_10": float(reference.mean())},
        documents=500,
        corpus=f"corpus of {prefix}",
    )
    texts = [f"{prefix} {row}" for row in range(ROWS)]
    table = pd.DataFrame(
        {
            "side": "test",
            "fold": None,
            "row_id": range(ROWS),
            "text_hash": texts,
            "cluster": texts,
            "ndcg_at_10": candidate,
            REFERENCE + "ndcg_at_10": reference,
        }
    )
    path = folder / "rows.parquet"
    write_example_rows(ExampleRows(run=scored, table=table), path)
    run.log_artifact(path, ROWS_ARTIFACT.partition("/")[0])
    path.unlink()
    run.finish("succeeded")
    return run.run_id


def register(
    tracker: Tracker, run_id: str, name: str = "embedding", alias: str | None = None
) -> None:
    client = tracker.client
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, source="models/none", run_id=run_id)
    if alias is not None:
        client.set_registered_model_alias(name, alias, version.version)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, _tracking_template: Path) -> dict[str, str]:
    """A store with two versions on the same rows, a third on new ones against the second, and an LLM."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(_tracking_template, folder / "mlflow.db")
    config = TrackingConfig(
        uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts")
    )
    tracker = Tracker(config)

    parent = tracker.start_run("s1 (all)", tags={"tunetrail.model_type": "all"})
    first = log_rows(tracker, folder, 0.1, parent=parent)
    llm = log_rows(tracker, folder, 0.1, parent=parent, name="llm", model_type="llm")
    parent.finish("succeeded")
    second = log_rows(tracker, folder, 0.2, name="s1 (embedding)")
    third = log_rows(
        tracker, folder, 0.3, against="models:/embedding/2", reference_gain=0.2, prefix="new"
    )
    unscored = tracker.start_run("unscored")
    unscored.finish("failed", "out of memory")
    register(tracker, first)
    register(tracker, second)
    register(tracker, third, alias="root")
    register(tracker, llm, "llm", alias="root")
    return {
        "uri": config.uri,
        "parent": parent.run_id,
        "first": first,
        "second": second,
        "third": third,
    }


@pytest.fixture
def compared(store: dict[str, str]) -> Callable[..., tunetrail.comparing.ModelComparison]:
    def call(*models: str, **options: object) -> object:
        return compare(*models, tracking_uri=store["uri"], bootstrap_samples=500, **options)  # type: ignore[arg-type]

    return call  # type: ignore[return-value]


Compared = Callable[..., tunetrail.comparing.ModelComparison]


@pytest.mark.parametrize(
    "first", ["embedding/1", "models:/embedding/1", "s1 (all)", "parent", "first"]
)
@pytest.mark.parametrize("second", ["embedding/2", "s1 (embedding)", "second"])
def test_models_are_found_by_run_version_and_name(
    store: dict[str, str], compared: Compared, first: str, second: str
) -> None:
    names = [store.get(name, name) for name in (first, second)]

    result = compared(*names)

    assert [model.name for model in result.models] == names
    assert [model.run_id for model in result.models] == [store["first"], store["second"]]
    assert result.pairs[0].better == names[1]
    assert result.pairs[0].comparison.improvement == pytest.approx(0.1)


def test_base_is_what_a_run_was_compared_with(store: dict[str, str], compared: Compared) -> None:
    result = compared("base", "embedding/1", "embedding/2")
    assert [pair.better for pair in result.pairs] == ["embedding/1", "embedding/2", "embedding/2"]
    assert result.models[0].source == f"base model of run {store['first']}"
    assert result.rank_test is not None


def test_a_version_is_compared_on_the_rows_of_the_run_that_beat_it(
    store: dict[str, str], compared: Compared
) -> None:
    # The version's own rows are of an earlier session.
    result = compared("embedding/2", "embedding@root")
    assert {model.run_id for model in result.models} == {store["third"]}
    assert result.models[0].source == f"version to beat of run {store['third']}"
    assert result.pairs[0].better == "embedding@root"

    with pytest.raises(UserError, match="same documents, got 500 documents of embedding/1, 500"):
        compared("embedding/1", "embedding@root")


def test_runs_of_several_families_need_a_model_type(
    store: dict[str, str], compared: Compared
) -> None:
    message = "model type must be one, got embedding, llm of s1 .*Add --model-type embedding or --model-type llm"
    with pytest.raises(UserError, match=message):
        compared("base", "s1 (all)")
    assert compared("base", "s1 (all)", model_type="llm").model_type == "llm"
    with pytest.raises(
        UserError, match="must be the same for all models, got embedding of embedding/1; llm"
    ):
        compared("embedding/1", "llm@root")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (("embedding/1", "embeding/2"), r"got 'embeding/2'\. Did you mean 'embedding/2'"),
        (("embedding/1", "embedding/7"), r"got 'embedding/7'\. Did you mean 'embedding/\d'"),
        (("embedding/1", "embedding@rot"), r"got 'embedding@rot'\. Did you mean 'embedding@root'"),
        (("embedding/1", "s1 (embeddings)"), r"Did you mean 's1 \(embedding\)'"),
        (("embedding/1", "zzz"), "got 'zzz'. `tunetrail ui` shows"),
        (("embedding/1", 'a"b'), "model must be a run's id"),
        (("embedding/1", "0" * 32), "model must be a run's id"),
        (("embedding/1", ""), "model must be a run's id"),
        (
            ("embedding/1", "unscored"),
            "artifact evaluation/rows.parquet, got 'unscored' without it",
        ),
        (("embedding/1", "embedding"), "must be one run, got 'embedding', the name of 2 runs"),
        (("base", "base"), "models must name a run or a version besides base"),
        (
            ("base", "embedding@root"),
            "base must be what .* was compared with, got run .* models:/embedding/2",
        ),
        (("embedding/1",), "models must be at least 2, got 1"),
    ],
)
def test_bad_names_are_one_line_with_a_way_out(
    compared: Compared, models: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        compared(*models)
    assert "\n" not in str(error.value) and error.value.exit_code == 2


def test_a_store_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(
        UserError, match=r"must name a store with runs, got sqlite:///.*no such file"
    ):
        compare("a", "b", tracking_uri=uri)
    assert not any(tmp_path.iterdir())


def test_comparison_is_logged_to_a_run(store: dict[str, str], compared: Compared) -> None:
    result = compared("base", "embedding/1", "embedding/2")

    run_id = log_comparison(result, tracking_uri=store["uri"])

    run = Tracker(TrackingConfig(uri=store["uri"])).run(run_id)
    assert sorted(run.artifacts("comparison")) == [
        f"comparison/{name}"
        for name in (
            "comparison.html",
            "comparison.json",
            "critical_difference.png",
            "pairs.csv",
            "pairs.png",
        )
    ]
    assert run.read_dict("comparison/comparison.json") == result.to_dict()
    logged = run.tracker.client.get_run(run_id)
    assert logged.info.run_name == "compare base embedding/1 embedding/2"
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["embedding/2/value"] == pytest.approx(result.models[2].value)


def test_unknown_rows_and_runs_without_folds_are_refused(compared: Compared) -> None:
    with pytest.raises(UserError, match="rows must be test or folds, got 'fold'"):
        compared("base", "embedding/1", rows="fold")
    with pytest.raises(UserError, match="must have rows of folds, got none of base"):
        compared("base", "embedding/1", rows="folds")


@pytest.mark.processes
def test_compare_is_public_and_needs_no_torch() -> None:
    assert tunetrail.compare is compare and "compare" in dir(tunetrail)
    program = (
        "import sys; from tunetrail import compare; import tunetrail.cli.compare; "
        "print(sorted({'torch', 'transformers', 'pytorch_lightning'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    assert result.stdout.strip() == "[]"


def test_command_prints_tables_and_writes_a_page(
    store: dict[str, str], call_main: CallMain, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")

    result = call_main(
        "compare",
        "base",
        "embedding/1",
        "embedding/2",
        "--uri",
        store["uri"],
        "--html",
        "out/page.html",
    )

    assert result.exit_code == 0
    assert "embedding/2 is better than embedding/1" in result.out
    assert "nDCG@10, higher is better" in result.out
    assert "corrected for 3 pairs (Holm)" in result.out
    assert "Not corrected for looks" in result.out
    assert result.error_line == "page: out/page.html"
    assert "embedding/2 is better than embedding/1" in (workplace / "out/page.html").read_text()


def test_command_prints_json_alone(store: dict[str, str], call_main: CallMain) -> None:
    result = call_main(
        "compare", "base", "embedding/1", "--uri", store["uri"], "--json", "--mlflow"
    )

    content = json.loads(result.out)
    assert result.exit_code == 0 and content["pairs"][0]["better"] == "embedding/1"
    assert result.error_line.startswith("MLflow run: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("base", "embedding/9"), "error: model must be a run's id or name"),
        (
            ("embedding/1", "embedding/2", "--html", "."),
            "error: --html must be a file, got the folder",
        ),
        (
            ("embedding/1", "embedding/2", "--confidence", "95"),
            "error: confidence must be at least 0.5",
        ),
        (("embedding/1", "embedding/2", "--metric", "spearman"), "error: metric must be one"),
    ],
)
def test_command_refuses_with_one_line(
    store: dict[str, str], call_main: CallMain, arguments: tuple[str, ...], message: str
) -> None:
    result = call_main("compare", *arguments, "--uri", store["uri"])
    assert result.exit_code == 2 and result.error_line.startswith(message)


@pytest.mark.processes
def test_command_prints_to_a_terminal_without_unicode(store: dict[str, str]) -> None:
    command = [
        sys.executable,
        "-m",
        "tunetrail",
        "compare",
        "base",
        "embedding/1",
        "--uri",
        store["uri"],
    ]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict", "COLUMNS": "60"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.isascii() and "embedding/1 is better than base" in result.stdout


def test_help_has_examples_and_does_not_wait(call_main: CallMain) -> None:
    result = call_main("compare", "--help")
    assert result.exit_code == 0
    assert "tunetrail compare base embedding@root" in result.out and "exit code: 0" in result.out
    assert "  compare " in call_main("--help").out
