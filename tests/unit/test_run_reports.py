"""Reports of runs in a store: old ones, broken ones, and ones that have nothing to report."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain
from tests.servers import Server

from tunetrail.config import TrackingConfig
from tunetrail.errors import UserError
from tunetrail.run_reports import REPORT_ARTIFACT, log_report, read_page
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker

COMPARISON = {
    "metric": "ndcg_at_10",
    "before": 0.5,
    "after": 0.6,
    "improvement": 0.1,
    "lower": 0.05,
    "upper": 0.15,
    "confidence": 0.95,
    "examples": 60,
    "bootstrap_samples": 1000,
    "better_share": 0.5,
    "worse_share": 0.25,
    "against": "base",
}
DEPLOYMENT = {"promote": True, "decision": "promoted", "reason": "it is better", "version": "1"}


@pytest.fixture
def tracker(tmp_path: Path, _tracking_template: Path) -> Tracker:
    shutil.copy(_tracking_template, tmp_path / "mlflow.db")
    return Tracker(
        TrackingConfig(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts"))
    )


def old_run(tracker: Tracker, name: str = "embedding", **tags: str) -> TrackedRun:
    """A run as the first versions left it: with the results of its steps."""
    run = tracker.start_run(name, tags={"tunetrail.model_type": "embedding", **tags})
    run.log_dict(COMPARISON, "steps/comparison.json")
    run.log_dict(DEPLOYMENT, "steps/deployment.json")
    run.finish("succeeded")
    return run


def test_an_old_run_has_a_page_that_names_what_it_lacks(tracker: Tracker) -> None:
    run = old_run(tracker)

    page = read_page(run.run_id, tracking_uri=tracker.config.uri)

    assert page.run_id == run.run_id and "Promoted to root: nDCG@10 is 0.6000" in page.html
    assert "<li>the scores of each row, without which" in page.html
    assert "<li>slices</li>" in page.html and "<img" not in page.html


def test_a_broken_artifact_is_named(tracker: Tracker, tmp_path: Path) -> None:
    run = old_run(tracker)
    for name in ("rows.parquet", "map.parquet", "examples.json"):
        (tmp_path / name).write_text("no such thing")
        run.log_artifact(tmp_path / name, "evaluation")

    html = read_page(run.run_id, tracking_uri=tracker.config.uri).html

    for name in ("rows.parquet", "map.parquet", "examples.json"):
        assert f"<li>evaluation/{name}, which can&#39;t be read: " in html


def test_the_page_is_logged_to_a_run_by_its_name(tracker: Tracker) -> None:
    run = old_run(tracker, name="may")

    page = Path(log_report(run))

    assert page.read_text(encoding="utf-8").count("Promoted to root") == 1
    assert set(run.artifacts("report/embedding")) == {"report/embedding/metrics.csv"}
    assert read_page("may", tracking_uri=tracker.config.uri).run_id == run.run_id


@pytest.mark.processes  # A real server: 20 seconds
def test_the_page_of_a_run_on_a_server_is_written_here(
    call_main: CallMain, workplace: Path
) -> None:
    server = Server(workplace)
    server.start()
    try:
        run = old_run(Tracker(TrackingConfig(uri=server.uri)))
        address = log_report(run)
        result = call_main("report", run.run_id[:8], "--uri", server.uri)
        stored = run.download(REPORT_ARTIFACT, workplace)
    finally:
        server.kill()

    experiment_id = run.tracker.experiment_id
    place = f"#/experiments/{experiment_id}/runs/{run.run_id}/artifacts/{REPORT_ARTIFACT}"
    assert address == f"{server.uri}/{place}?workflowType=machine_learning"
    assert (result.exit_code, result.out) == (0, f"report-{run.run_id}.html\n")
    written = (workplace / result.out.strip()).read_text(encoding="utf-8")
    assert written.count("Promoted to root") == 1 and written == stored.read_text(encoding="utf-8")


def test_a_name_of_several_runs_is_refused(tracker: Tracker) -> None:
    first, second = old_run(tracker), old_run(tracker)

    with pytest.raises(UserError, match=r"^run must be one run, got 'embedding', the name of 2"):
        read_page("embedding", tracking_uri=tracker.config.uri)
    for run in (first, second):
        assert read_page(run.run_id, tracking_uri=tracker.config.uri).run_id == run.run_id


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        ("failed", "out of\nmemory", "which failed: out of memory. Continue it with `tunetrail"),
        ("interrupted", None, "which was interrupted. Continue it with `tunetrail resume"),
        ("succeeded", None, "which ended before its evaluation. Continue it with"),
        (None, None, "which is running. Wait until it has ended."),
    ],
)
def test_a_run_without_an_evaluation_is_one_line(
    state: str | None, reason: str | None, words: str, tracker: Tracker, call_main: CallMain
) -> None:
    run = tracker.start_run("unfinished")
    if state is not None:
        run.finish(state, reason)

    result = call_main("report", "unfinished", "--uri", tracker.config.uri)

    assert result.exit_code == 2
    assert f"run must have been evaluated, got 'unfinished', {words}" in result.error_line


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("embeding", "run must be a run's id or name, a version such as embedding/3, or an alias"),
        ("embeding", "got 'embeding'. Did you mean 'embedding'?"),
        ("base", "got 'base'."),
        ("embedding/7", "got 'embedding/7'."),
        ("0" * 32, f"got '{'0' * 32}'."),
        ('a"b', "got 'a\"b'."),
    ],
)
def test_an_unknown_run_is_one_line(
    reference: str, words: str, tracker: Tracker, call_main: CallMain
) -> None:
    old_run(tracker)

    result = call_main("report", reference, "--uri", tracker.config.uri)

    assert result.exit_code == 2 and words in result.error_line


def test_a_store_that_does_not_exist_is_one_line(call_main: CallMain, tmp_path: Path) -> None:
    result = call_main("report", "s1", "--uri", f"sqlite:///{tmp_path}/none.db")

    assert result.exit_code == 2
    assert "tracking_uri must name a store with runs" in result.error_line
    assert not (tmp_path / "none.db").exists()


def test_the_page_goes_where_it_is_wanted(
    tracker: Tracker, call_main: CallMain, workplace: Path
) -> None:
    run = old_run(tracker)
    options = ("report", run.run_id, "--uri", tracker.config.uri)

    result = call_main(*options)
    assert result.out == f"report-{run.run_id}.html\n"
    assert (workplace / result.out.strip()).stat().st_mode & 0o077 == 0

    (workplace / "file").write_text("")
    for place, words in ((".", "got the folder '.'"), ("file/page.html", "--html must be")):
        result = call_main(*options, "--html", place)
        assert result.exit_code == 2 and words in result.error_line


def test_a_comparison_that_cannot_be_read_is_one_line(tracker: Tracker) -> None:
    run = old_run(tracker)
    run.log_text(json.dumps(COMPARISON)[:40], "steps/comparison.json")

    with pytest.raises(UserError, match=r"^run must have a readable steps/comparison.json, got "):
        read_page(run.run_id, tracking_uri=tracker.config.uri)


def test_a_note_of_the_user_stays(tracker: Tracker) -> None:
    run = tracker.start_run("s1")
    run.describe("the decision")
    assert note_of(run) == "the decision"

    run.set_tags({"mlflow.note.content": "my own words"})
    run.describe("another decision")

    assert note_of(run) == "my own words"


def note_of(run: TrackedRun) -> Any:
    return run.tracker.client.get_run(run.run_id).data.tags["mlflow.note.content"]
