"""Sweeps: what can't work is refused before the first job, and nothing of the others is lost."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.commands import CallMain, CommandResult
from tests.flow.conftest import database, make_settings, rows_of, session
from tests.tracking import client_of

from tunetrail import DatabaseManager
from tunetrail.samples import SampleKind
from tunetrail.sweeps.study import SweepStudy

__all__ = ["database", "make_settings", "session"]

pytestmark = pytest.mark.processes

RATE = "embedding.training.learning_rate"
DIMENSIONS = "embedding.matryoshka_dimensions"
"""The tiny model has 32 dimensions: a job with 64 fails when it begins to train."""


def pairs_session() -> str:
    """A session with pairs, in the database of the working folder."""
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        manager.ingest("s1", rows_of("pair"), SampleKind.EMBEDDING)
    return "s1"


def mlflow_runs(workplace: Path) -> list[Any]:
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return list(client.search_runs(experiment_ids, order_by=["start_time"]))


@pytest.fixture
def overrides(workplace: Path, tiny_embedding_model: str) -> list[str]:
    """Arguments of short trainings."""
    return [
        f"session_id={pairs_session()}",
        "model_type=embedding",
        f"tracking.uri=sqlite:///{workplace}/mlflow.db",
        f"embedding.model={tiny_embedding_model}",
        "embedding.max_length=64",
        "embedding.training.max_steps=2",
        "embedding.training.warmup_steps=0",
        "embedding.training.batch_size=16",
        "cross_validation=off",
        "split.validation_share=0.3",
        "gate=point",
        "gate.fresh_process=false",
        "gate.minimum_improvement=-10",
        "gate.minimum_test_clusters=1",
        "evaluation.bootstrap_samples=100",
    ]


@pytest.fixture
def sweep(call_main: CallMain, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> CallMain:
    """`tunetrail train -m ...` in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> CommandResult:
        return call_main("train", "-m", *overrides, *arguments)

    return call


def last_line(result: CommandResult) -> str:
    """The line about the error; warnings and the log stand above it."""
    return result.err.splitlines()[-1]


def the_study(workplace: Path) -> SweepStudy:
    """The study of the only sweep."""
    (run,) = (run for run in mlflow_runs(workplace) if "tunetrail.sweep" in run.data.tags)
    return SweepStudy.open(DatabaseManager("sqlite:///tunetrail.db"), run.info.run_id)


def test_what_cannot_work_is_refused_before_the_first_job(sweep: CallMain, workplace: Path) -> None:
    refusals = [
        (["+experiments=glob([nothing*])"], "+experiments must be at least one value"),
        ([f"{RATE}=range(3,1)"], f"{RATE} must be at least one value"),
        ([f"{RATE}=interval(1e-3,1e-5)"], "an interval whose end is above its start"),
        ([f"{RATE}=interval(1e-5,1e-3)"], "hydra.sweeper.n_trials must be given"),
        ([f"{RATE}=tag(log,interval(0,1e-3))"], "starts above 0, as it has the tag log"),
        (["seed=1,2", "hydra.sweeper.sampler=tpee"], "Did you mean 'tpe'?"),
        (
            ["seed=1,2", "hydra.sweeper.sampler=cmaes", "hydra.sweeper.n_trials=3"],
            "hydra.sweeper.sampler must be random or tpe, as seed is a choice",
        ),
        (["seed=1,2", "sweep.objective=bits_per_byte"], "got 'bits_per_byte'"),
        (["seed=1,2", "sweep.objective=ndgc_at_10"], "Did you mean 'ndcg_at_10'?"),
        (["seed=1,2", "hydra.job.chdir=true"], "hydra.job.chdir must be false, got True"),
        (["seed=1,2", "hydra/sweeper=basic"], "hydra/sweeper must be tunetrail, got 'basic'"),
        (["seed=1,2", "trainer.num_nodes=2"], "trainer.num_nodes must be 1 in a sweep"),
        (["embedding.matryoshka_dimensions=[32,16]"], "a sweep must be over at least one key"),
        (["split.test_share=0.1,0.2"], "split must be the same for all jobs of a sweep"),
        (["optimizer=adamw,sgdd"], "sgdd"),
        (
            ["seed=1,2", "embedding.training.batch_size=16,0"],
            "got 0. (job 2 of the sweep: embedding.training.batch_size=0, seed=1)",
        ),
        (["embedding.model=minilm,minlm", "seed=1,2"], "Did you mean 'minilm'?"),
    ]
    for arguments, message in refusals:
        result = sweep(*arguments)
        assert (result.exit_code, message in last_line(result)) == (2, True), result.err

    assert mlflow_runs(workplace) == []
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        assert manager.training_runs() == []


def test_a_password_that_is_typed_is_written_nowhere(sweep: CallMain, workplace: Path) -> None:
    # Nobody listens there.
    result = sweep("database.url=postgresql+psycopg://u:SECRET@127.0.0.1:1/d", "seed=1,2")

    assert result.exit_code == 1 and "postgresql+psycopg://u:***@127.0.0.1:1/d" in result.err
    written = [path.read_bytes() for path in workplace.rglob("*") if path.is_file()]
    assert b"SECRET" not in b"".join(written)
    assert "SECRET" not in result.out + result.err


def test_a_list_of_experiments_makes_a_job_of_each(sweep: CallMain, workplace: Path) -> None:
    (workplace / "experiments").mkdir()
    for name, rate in (("one", 1e-3), ("two", 2e-3)):
        file = workplace / "experiments" / f"{name}.yaml"
        rates = f"embedding:\n  training:\n    learning_rate: {rate}\n"
        file.write_text(f"# @package _global_\n{rates}")

    result = sweep("+experiments=glob([one,two])", "sweep.promote=none")

    assert result.exit_code == 0, result.err
    jobs = the_study(workplace).jobs()
    assert [job.overrides for job in jobs] == [("+experiments=one",), ("+experiments=two",)]
    runs = {run.info.run_id: run for run in mlflow_runs(workplace)}
    of_jobs = [runs[str(job.mlflow_run_id)] for job in jobs]
    assert [run.info.run_name for run in of_jobs] == ["experiments=one", "experiments=two"]
    assert [float(run.data.params[RATE]) for run in of_jobs] == [1e-3, 2e-3]


def test_failed_job_is_named_when_it_happens_and_at_the_end(
    sweep: CallMain, workplace: Path
) -> None:
    prompt = "embedding.document_prompt='http://me:SECRET@host/ '"

    result = sweep(f"{DIMENSIONS}=[],[64],[16]", prompt)

    assert result.exit_code == 1
    assert last_line(result).startswith("error: 1 of 3 jobs failed: job 1: ")
    states = [job.state.value for job in the_study(workplace).jobs()]
    assert states == ["finished", "failed", "finished"]
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        assert len(manager.promotions("embedding")) == 1
    (run,) = (run for run in mlflow_runs(workplace) if "tunetrail.sweep" in run.data.tags)
    assert run.info.status == "FAILED" and "1 of 3" in run.data.tags["tunetrail.reason"]
    # Where it happened, and when: in the log of the job.
    (folder,) = (workplace / "training_output" / "hydra").glob("sweep-*")
    assert "job 1 failed: " in (folder / "1" / "train.log").read_text()
    assert "failed" not in (folder / "2" / "train.log").read_text()
    written = [path.read_text() for path in folder.rglob("*") if path.is_file()]
    assert "SECRET" not in "".join([*written, result.out, result.err, str(run.data.tags)])


def test_adaptive_sampler_trains_as_many_jobs_as_it_is_told(
    sweep: CallMain, workplace: Path
) -> None:
    (workplace / "experiments").mkdir()
    (workplace / "experiments" / "rates.yaml").write_text(
        "# @package _global_\n"
        "hydra:\n  sweeper:\n    n_trials: 3\n    params:\n"
        f"      {RATE}: tag(log, interval(1e-4, 1e-2))\n"
    )

    result = sweep("+experiments=rates", "hydra.sweeper.sampler=random", "sweep.promote=none")

    assert result.exit_code == 0, result.err
    study = the_study(workplace)
    assert [job.state.value for job in study.jobs()] == ["finished"] * 3
    rates = [float(job.overrides[0].partition("=")[2]) for job in study.jobs()]
    assert len(set(rates)) == 3 and all(1e-4 <= rate <= 1e-2 for rate in rates)
    # What varies names the runs, also where it stands in a file.
    names = [run.info.run_name for run in mlflow_runs(workplace)]
    assert set(names) == {f"sweep {RATE}", *(f"learning_rate={rate:.4g}" for rate in rates)}
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        assert manager.promotions("embedding") == []


def ended_jobs(workplace: Path) -> int:
    """How many jobs of the only sweep have ended so far."""
    with DatabaseManager(f"sqlite:///{workplace}/tunetrail.db") as manager:
        with manager._database.reading() as connection:
            (study,) = set(connection.exec_driver_sql("SELECT study FROM study_logs").scalars())
        return sum(job.has_ended for job in SweepStudy.open(manager, study).jobs())


def wait_until(condition: Any) -> None:
    while True:
        try:
            if condition():
                return
        except (ValueError, OSError):  # there is no sweep yet
            pass
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("signal_number", "exit_code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)]
)
@pytest.mark.parametrize(
    "launcher", [[], ["hydra/launcher=processes", "hydra.launcher.slots=2"]], ids=["basic", "slots"]
)
def test_sweep_whose_driver_ends_early_goes_on_and_every_job_is_accounted_for_once(
    overrides: list[str],
    workplace: Path,
    call_main: CallMain,
    signal_number: signal.Signals,
    exit_code: int,
    launcher: list[str],
) -> None:
    arguments = [*overrides, *launcher, f"{DIMENSIONS}=[],[8],[64],[16]", f"{RATE}=1e-3,2e-3"]
    command = [sys.executable, "-m", "tunetrail", "train", "-m", *arguments]
    with (workplace / "terminal.txt").open("w") as terminal:
        driver = subprocess.Popen(command, stdout=terminal, stderr=terminal, cwd=workplace)
    wait_until(lambda: ended_jobs(workplace) >= 3 or driver.poll() is not None)
    os.kill(driver.pid, signal_number)
    assert driver.wait() == exit_code

    study = the_study(workplace)
    before = {job.number: job for job in study.jobs() if job.has_ended}
    result = call_main(
        "resume", study.sweep_run_id, f"tracking.uri=sqlite:///{workplace}/mlflow.db"
    )

    assert result.exit_code == 1 and "2 of 8 jobs failed: job 4: " in last_line(result)
    jobs = study.jobs()
    assert [job.number for job in jobs if job.state == "failed"] == [4, 5]
    assert Counter(job.state.value for job in jobs) == {"finished": 6, "failed": 2}
    assert 3 <= len(before) < 8 and all(jobs[number] == job for number, job in before.items())
    # One run for each job, also for the one that was in the middle: it was resumed.
    runs = mlflow_runs(workplace)
    below = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == study.sweep_run_id]
    assert sorted(run.info.run_id for run in below) == sorted(
        str(job.mlflow_run_id) for job in jobs
    )
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        assert len(manager.promotions("embedding")) == 1
