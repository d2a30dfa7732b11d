import json
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain
from tests.unit.sweeps.test_study import LOSS, NDCG, OPTIMIZERS, RATES, new_study

from tunetrail.config import TrackingConfig
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker
from tunetrail.sweeps.page import sweep_page
from tunetrail.sweeps.pictures import sweep_pictures
from tunetrail.sweeps.space import SearchSpace
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.summary import summarize_sweep
from tunetrail.sweeps.summary_artifacts import jobs_table, write_sweep_summary

VALUES = [0.5, 0.55, 0.7, 0.62, 0.66]
"""Of the first five jobs of the grid; the sixth fails."""


def finish(study: SweepStudy, number: int, *values: float) -> None:
    study.start_job(number, f"run-{number}")
    interval = (values[0] - 0.05, values[0] + 0.05)
    study.finish_job(number, values, interval=interval, seconds=61.0, steps=10 * number)


@pytest.fixture
def study(manager: DatabaseManager) -> SweepStudy:
    """A sweep of six jobs: five have finished and one has failed."""
    study = new_study(manager)
    for number, value in enumerate(VALUES):
        finish(study, number, value)
    study.fail_job(5, "<script>alert(1)</script>")
    return study


def record_decision(manager: DatabaseManager, run_id: str, decision: str = "promoted") -> None:
    manager.record_promotion(
        PromotionRecord(
            model_name="embedding",
            version="4",
            previous_version=None,
            decision=decision,
            reason="the interval is above 0",
            metric="ndcg_at_10",
            before=0.4,
            after=0.6,
            improvement=0.2,
            lower=0.1,
            upper=0.3,
            run_id="t",
            mlflow_run_id=run_id,
            session_id="s1",
            test_rows=None,
            learnt_rows=None,
        )
    )


def test_jobs_come_from_best_to_worst_and_failed_ones_last(
    study: SweepStudy, manager: DatabaseManager
) -> None:
    summary = summarize_sweep(study, manager)

    assert [job.number for job in summary.jobs] == [2, 4, 3, 1, 0, 5]
    assert summary.best == 2 and summary.best_job is not None
    # 0.66 and 0.62 are within the half widths of 0.05 of 0.7.
    assert summary.overlapping == 2
    assert summary.counts_in_words == "6 jobs: 1 failed, 5 finished"
    assert summary.best_in_words == (
        "Best by nDCG@10 of the validation rows: job 2 (rate=2e-5, optimizer=adamw) with 0.7000 "
        "(0.6500 … 0.7500). Its interval overlaps with the intervals of 2 other jobs: "
        "their order may be chance."
    )
    assert summary.decision is None


def test_a_smaller_objective_can_be_better(manager: DatabaseManager) -> None:
    study = new_study(manager, LOSS)
    for number, value in enumerate(VALUES):
        finish(study, number, value)

    summary = summarize_sweep(study, manager)

    assert [job.number for job in summary.jobs] == [0, 1, 3, 4, 2, 5]
    assert summary.best == 0 and ": job 0 (" in summary.best_in_words


def test_importances_are_shares_that_stay_the_same(
    study: SweepStudy, manager: DatabaseManager
) -> None:
    importances = summarize_sweep(study, manager).importances

    assert set(importances) == {"rate", "optimizer"}
    assert sum(importances.values()) == pytest.approx(1.0)
    assert list(importances) == ["rate", "optimizer"]
    assert summarize_sweep(study, manager).importances == importances


def test_importances_of_few_or_equal_jobs_are_unknown(manager: DatabaseManager) -> None:
    study = new_study(manager)
    finish(study, 0, 0.5)

    assert summarize_sweep(study, manager).importances == {}
    for number in range(1, 6):
        finish(study, number, 0.5)
    summary = summarize_sweep(study, manager)
    assert sum(summary.importances.values()) in (0.0, pytest.approx(1.0))
    assert sweep_pictures(summary, study)


def test_the_decision_is_that_of_the_ledger(study: SweepStudy, manager: DatabaseManager) -> None:
    record_decision(manager, "another run")
    assert summarize_sweep(study, manager).decision is None

    record_decision(manager, "run-2")

    assert summarize_sweep(study, manager).decision == (
        "Job 2 became version 4 of embedding: promoted to root. nDCG@10 of the test rows is 0.6000 "
        "against 0.4000. Reason: the interval is above 0."
    )


def test_a_sweep_without_jobs_has_a_page(manager: DatabaseManager) -> None:
    study = new_study(manager, space=SearchSpace(()))
    summary = summarize_sweep(study, manager)

    assert summary.best_in_words == "No job has finished."
    assert "No job has finished." in sweep_page(summary, sweep_pictures(summary, study))


def test_the_page_escapes_what_users_typed(manager: DatabaseManager) -> None:
    texts = ("<b>x</b>", "$y$")
    hostile = OPTIMIZERS.__class__(
        key="a.name", distribution=OPTIMIZERS.distribution.__class__(texts), texts=texts
    )
    study = new_study(manager, NDCG, space=SearchSpace((hostile, RATES)))
    for number, value in enumerate(VALUES):
        finish(study, number, value)
    study.fail_job(5, "<script>alert(1)</script>")

    summary = summarize_sweep(study, manager)
    html = sweep_page(summary, sweep_pictures(summary, study))

    assert "<script>" not in html and "<b>" not in html
    assert "&lt;script&gt;" in html and "name=&lt;b&gt;x" in html


def test_two_objectives_have_a_front(manager: DatabaseManager) -> None:
    study = new_study(manager, NDCG, LOSS)
    for number, value in enumerate(VALUES):
        finish(study, number, value, value if number != 3 else 0.1)

    summary = summarize_sweep(study, manager)

    assert set(summary.front) == {2, 3, 4}
    assert "front" in sweep_pictures(summary, study)
    assert sweep_page(summary, {}).count("on the Pareto front") == 3


def test_the_table_has_a_row_for_each_job(study: SweepStudy, manager: DatabaseManager) -> None:
    table = jobs_table(summarize_sweep(study, manager))

    assert table["job"].tolist() == [2, 4, 3, 1, 0, 5]
    assert table["optimizer"].tolist()[:2] == ["adamw", "adamw"]
    assert table["ndcg_at_10"].tolist()[:5] == sorted(VALUES, reverse=True)
    assert table["reason"].iloc[-1] == "<script>alert(1)</script>"


@pytest.fixture
def sweep_run(workplace: Path) -> TrackedRun:
    uri = f"sqlite:///{workplace}/mlflow.db"
    tracker = Tracker(TrackingConfig(uri=uri, artifacts=str(workplace / "mlartifacts")))
    return tracker.start_run("a sweep", tags={"tunetrail.sweep": "x"})


def test_the_run_of_the_sweep_holds_its_summary(
    study: SweepStudy, manager: DatabaseManager, sweep_run: TrackedRun
) -> None:
    record_decision(manager, "run-2", "refused")

    write_sweep_summary(sweep_run, study, manager)

    run: Any = sweep_run.tracker.find_run(sweep_run.run_id)
    client = sweep_run.tracker.client
    curve = client.get_metric_history(sweep_run.run_id, "jobs/ndcg_at_10")
    assert sorted((point.step, point.value) for point in curve) == list(enumerate(VALUES))
    # Written again, it has no point twice.
    write_sweep_summary(sweep_run, study, manager)
    assert len(client.get_metric_history(sweep_run.run_id, "jobs/ndcg_at_10")) == len(VALUES)
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("Best by nDCG") and "refused, root stays" in note
    assert "6 jobs: 1 failed, 5 finished." in note
    assert set(sweep_run.artifacts("sweep")) == {
        f"sweep/{name}"
        for name in ("sweep.html", "summary.json", "jobs.csv", "objective.png", "parallel.png")
    } | {"sweep/importance.png"}


def test_a_job_that_lost_has_a_note_and_the_others_wait_for_theirs(
    manager: DatabaseManager, sweep_run: TrackedRun
) -> None:
    study = new_study(manager)
    tracker = sweep_run.tracker
    runs = [tracker.start_run(f"job {number}") for number in range(6)]
    for number, value in enumerate(VALUES):
        study.start_job(number, runs[number].run_id)
        study.finish_job(number, [value])
    study.start_job(5, runs[5].run_id)
    study.prune_job(5, "it is <b>behind</b>.")
    runs[0].describe("mine")

    write_sweep_summary(sweep_run, study, manager)

    def note(number: int) -> str | None:
        run: Any = tracker.find_run(runs[number].run_id)
        return run.data.tags.get("mlflow.note.content")

    assert note(0) == "mine" and note(2) is None
    assert note(4) == (
        "Job 4 of 6 in a sweep (rate=3e-5, optimizer=adamw): nDCG@10 of the validation rows is "
        "0.6600, place 2 of 5. Job 2 was better with 0.7000, so this model wasn't evaluated on the "
        "test rows."
    )
    assert note(5) is not None and "was pruned: it is" in note(5) and "<b>" not in note(5)


def test_a_sweep_that_goes_on_gets_its_note_at_the_end(
    manager: DatabaseManager, sweep_run: TrackedRun
) -> None:
    study = new_study(manager)
    finish(study, 0, 0.5)
    write_sweep_summary(sweep_run, study, manager)
    assert "mlflow.note.content" not in sweep_run.tracker.find_run(sweep_run.run_id).data.tags  # type: ignore[union-attr]

    for number in range(1, 6):
        finish(study, number, VALUES[number - 1])
    write_sweep_summary(sweep_run, study, manager)

    note = sweep_run.tracker.find_run(sweep_run.run_id).data.tags["mlflow.note.content"]  # type: ignore[union-attr]
    assert "6 jobs: 6 finished." in note


def test_the_command_shows_a_sweep(
    study: SweepStudy,
    manager: DatabaseManager,
    call_main: CallMain,
    url: str,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    page = workplace / "pages" / "sweep.html"
    page.parent.mkdir()

    shown = call_main("sweep", "show", "s", "--database", url, "--html", str(page))

    assert shown.exit_code == 0 and "Best by nDCG@10" in shown.out
    assert shown.out.index("rate=2e-5 optimizer=adamw") < shown.out.index("rate=3e-5")
    assert "0.7000 (0.6500 … 0.7500)" in shown.out and " 61 s " in shown.out
    assert "finished (best)" in shown.out and "failed: <script>" in shown.out
    assert "Sweep s" in page.read_text()
    as_json = json.loads(call_main("sweep", "show", "s", "--database", url, "--json").out)
    assert (as_json["best"], as_json["jobs"][0]["values"]) == (2, [0.7])


@pytest.mark.parametrize("sweep", ["nobody", ""])
def test_the_command_refuses_a_sweep_that_is_not_there(
    call_main: CallMain, workplace: Path, sweep: str
) -> None:
    result = call_main("sweep", "show", sweep, "--database", f"sqlite:///{workplace}/absent.db")

    assert result.exit_code == 2
    assert result.error_line == (
        f"error: SWEEP must be the id of one sweep, got {sweep!r}, which no sweep has. "
        "`tunetrail runs` lists the sweeps."
    )
    assert not (workplace / "absent.db").exists()
