"""The report of finished trainings, written at their end and again by the command."""

import stat
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from tests.commands import CallMain
from tests.tracking import client_of, runs_by_family, top_run

from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.decision_text import interval_with_level
from tunetrail.reporting.readable import as_markdown
from tunetrail.run_reports import REPORT_ARTIFACT


@pytest.fixture
def client(trained: Any) -> MlflowClient:
    return client_of(trained.settings.tracking.uri)


@pytest.fixture
def runs(trained: Any, client: MlflowClient) -> dict[str, Any]:
    """The runs of the training: the pipeline's as `all`, the model types' and the first fold's."""
    experiment = client.get_experiment_by_name(trained.settings.tracking.experiment)
    runs = client.search_runs([experiment.experiment_id])
    fold = next(run for run in runs if run.info.run_name == "fold-1")
    return {**runs_by_family(runs), "all": top_run(runs), "fold-1": fold}


def test_a_training_leaves_its_report(
    runs: dict[str, Any], client: MlflowClient, tmp_path: Path
) -> None:
    run_id = runs["all"].info.run_id

    folder = Path(client.download_artifacts(run_id, "report", str(tmp_path)))

    page = (folder / "report.html").read_text(encoding="utf-8")
    for words in ("Promoted to root", "Cross-validation", "fold by fold", "Written answers"):
        assert words in page
    assert "Not kept" not in page
    pictures = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert {"embedding/losses.png", "embedding/folds.png", "llm/folds.png"} <= pictures
    assert {"embedding/map_before.png", "embedding/map_after.png"} <= pictures
    # Its models give no vectors of texts.
    assert "llm/map_before.png" not in pictures
    metrics = pd.read_csv(folder / "embedding" / "metrics.csv")
    assert metrics["metric"].iloc[0] == "ndcg_at_10" and metrics["improvement"].notna().all()


def test_only_the_owner_reads_the_report(runs: dict[str, Any]) -> None:
    root = Path(runs["all"].info.artifact_uri.removeprefix("file://"))

    assert stat.S_IMODE((root / REPORT_ARTIFACT).stat().st_mode) == 0o600


def test_run_and_version_say_the_decision_in_two_sentences(
    trained: Any, runs: dict[str, Any], client: MlflowClient
) -> None:
    step = trained.results["results"]["steps"]["comparison"]["embedding"]
    interval = as_markdown(interval_with_level(Comparison.from_dict(step)))

    note = runs["all"].data.tags["mlflow.note.content"]
    paragraphs = note.split("\n\n")
    assert [text.partition(":")[0] for text in paragraphs] == ["**embedding**", "**llm**"]

    version = client.get_model_version("embedding", "1")
    description = version.description
    rows, documents = step["scored_rows"], step["documents"]
    assert version.tags["tunetrail.scored"] == step["evidence"]
    assert step["evidence"].startswith(f"{rows} of {step['side_rows']} test rows")
    assert step["evidence"].endswith(f"ranked among {documents:,} documents")
    note_of_run = runs["embedding"].data.tags["mlflow.note.content"]
    decision, scored_on = note_of_run.split("\n\n")
    assert scored_on.startswith(f"Scored on the test rows `{step['test_rows']}` of s1.")
    assert paragraphs[0] == f"**embedding**: {decision}"
    # What follows is the rest of the model's card.
    assert description.startswith(f"{decision}\n\n## Metrics\n\n| metric | this model |")
    assert "Promoted to root: nDCG@10 is " in description and interval in description
    assert " Reason: ndcg_at_10: improvement " in description


@pytest.mark.parametrize("reference", ["all", "embedding@root", "llm/1"])
def test_the_command_writes_the_page_again(
    reference: str, trained: Any, runs: dict[str, Any], call_main: CallMain, tmp_path: Path
) -> None:
    page = tmp_path / "pages" / "page.html"
    uri = trained.settings.tracking.uri

    named = runs["all"].info.run_name if reference == "all" else reference
    result = call_main("report", named, "--uri", uri, "--html", str(page))

    assert (result.exit_code, result.out) == (0, f"{page}\n"), result.err
    html = page.read_text(encoding="utf-8")
    # A section for each model type, and the one that says how to look closer.
    assert html.count("<h2>") == (3 if reference == "all" else 2)
    assert f"--uri {uri}" in html

    # What the training wrote is what the command writes.
    if reference == "all":
        root = Path(runs[reference].info.artifact_uri.removeprefix("file://"))
        written = (root / REPORT_ARTIFACT).read_text(encoding="utf-8")
        assert written.partition("<pre>")[0] == html.partition("<pre>")[0]


def test_a_fold_has_no_report(trained: Any, runs: dict[str, Any], call_main: CallMain) -> None:
    fold = runs["fold-1"].info.run_id

    result = call_main("report", fold, "--uri", trained.settings.tracking.uri)

    assert result.exit_code == 2
    assert result.error_line.startswith(
        f"error: run must have been evaluated, got {fold!r}, which ended before its evaluation."
    )
