"""A sweep in one process or several, some of which crash, whose driver is killed and resumed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.tracking import client_of

from tunetrail import DatabaseManager
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.sweep_job import JobState, SweepJob

STEPS = 6

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(workplace: Path, session: str, tiny_embedding_model: str) -> Start:
    """`tunetrail ARGUMENT ...` in a process of its own, which writes to `terminal.txt`."""

    def call(*arguments: str) -> "subprocess.Popen[str]":
        with open(workplace / "terminal.txt", "a") as terminal:
            return subprocess.Popen(
                [sys.executable, "-m", "tunetrail", *arguments],
                cwd=workplace,
                stdout=terminal,
                stderr=terminal,
                text=True,
                env={**os.environ, "TUNETRAIL_HOME": str(workplace)},
            )

    return call


def stores(workplace: Path) -> list[str]:
    return [
        f"database.url=sqlite:///{workplace}/tunetrail.db",
        f"tracking.uri=sqlite:///{workplace}/mlflow.db",
    ]


def sweep_arguments(
    workplace: Path, session: str, model: str, jobs: int, launcher: Sequence[str]
) -> list[str]:
    return [
        *("train", "-m", f"session_id={session}", *stores(workplace)),
        *("model_type=embedding", f"embedding.model={model}", "cross_validation=off"),
        *("gate=point", "evaluation.bootstrap_samples=100", "split.validation_share=0.4"),
        "gate.fresh_process=false",
        *(f"embedding.training.max_steps={STEPS}", "embedding.training.num_epochs=100"),
        "embedding.training.early_stopping_patience=0",
        *("embedding.training.warmup_steps=0", "embedding.training.logging_steps=1"),
        f"seed={','.join(map(str, range(1, jobs + 1)))}",
        *launcher,
    ]


def slots(count: int) -> list[str]:
    """Return the overrides by which each job is a process of its own."""
    return ["hydra/launcher=processes", f"hydra.launcher.slots={count}"]


def sweep_id(workplace: Path) -> str | None:
    """Return the run of the only sweep, None if there is none yet."""
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`tunetrail.sweep` LIKE '%'")
    return str(runs[0].info.run_id) if runs else None


def jobs_of(workplace: Path, run_id: str) -> list[SweepJob]:
    with DatabaseManager(f"sqlite:///{workplace}/tunetrail.db") as manager:
        return SweepStudy.open(manager, run_id).jobs()


def running_jobs(driver: "subprocess.Popen[str]") -> list[psutil.Process]:
    try:
        children = psutil.Process(driver.pid).children()
    except psutil.NoSuchProcess:
        return []
    # A child that has ended and isn't waited for yet has no command line.
    return [child for child in children if child.status() != psutil.STATUS_ZOMBIE]


def number_of(process: psutil.Process) -> int:
    """Return the number of a job by the log that its process writes to; -1 if it has ended."""
    try:
        logs = [Path(file.path) for file in process.open_files() if file.path.endswith("train.log")]
    except psutil.Error:
        logs = []
    return int(logs[0].parent.name) if logs else -1


def wait_until_ended(processes: Sequence[psutil.Process]) -> None:
    """Wait for processes that are nobody's children any more."""
    _, alive = psutil.wait_procs(processes, timeout=600)
    assert not alive, "a job has outlived its driver"


def disturb(
    workplace: Path, driver: "subprocess.Popen[str]", crashes: list[int], ends: int | None
) -> None:
    """Kill jobs of a sweep, and its driver once `ends` jobs have ended (None: never).

    Args:
        workplace: The folder of the sweep.
        driver: Its driver.
        crashes: Numbers of the jobs to kill; the killed ones are removed.
        ends: How many jobs end before the driver is killed.
    """
    while driver.poll() is None:
        time.sleep(0.5)
        run_id = sweep_id(workplace)
        jobs = jobs_of(workplace, run_id) if run_id else []

        # Its run tells that the job has come as far as the training.
        running = {job.number for job in jobs if job.state == JobState.RUNNING}
        for process in running_jobs(driver):
            number = number_of(process)
            if number in running and number in crashes:
                process.kill()
                crashes.remove(number)

        if ends is not None and sum(job.has_ended for job in jobs) >= ends:
            orphans = running_jobs(driver)
            driver.kill()
            driver.wait()
            wait_until_ended(orphans)


def logged_steps(workplace: Path, job: SweepJob) -> list[int]:
    """Return the steps at which the training of a job has logged its loss, in their order."""
    assert job.mlflow_run_id is not None
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    below = client.search_runs(experiments, f"tags.mlflow.parentRunId = '{job.mlflow_run_id}'")
    run_ids = {job.mlflow_run_id, *(run.info.run_id for run in below)}
    points: list[Any] = []
    for run_id in run_ids:
        points += client.get_metric_history(run_id, "train/loss")
    return [point.step for point in sorted(points, key=lambda point: point.step)]


def check_accounts(workplace: Path, run_id: str, count: int, crashes: Sequence[int]) -> None:
    """Every job is accounted for once, with all of its points or with the reason of its end."""
    jobs = jobs_of(workplace, run_id)
    assert [job.number for job in jobs] == list(range(count))
    for job in jobs:
        if job.number in crashes:
            assert job.state == JobState.FAILED and "signal 9" in str(job.reason), job
        else:
            assert job.state == JobState.FINISHED, job
            assert logged_steps(workplace, job) == list(range(1, STEPS + 1)), job

    # One run in MLflow for each job, also for those that two drivers had in hand.
    client = client_of(f"sqlite:///{workplace}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    below = client.search_runs(experiments, f"tags.mlflow.parentRunId = '{run_id}'")
    runs = Counter(job.mlflow_run_id for job in jobs)
    assert set(runs) <= {run.info.run_id for run in below} and set(runs.values()) == {1}
    printed = (workplace / "terminal.txt").read_text()
    for log in (workplace / "training_output").rglob("train.log"):
        printed += log.read_text()
    assert "database is locked" not in printed


def run_disturbed(
    start: Start,
    workplace: Path,
    arguments: list[str],
    *,
    crashes: Sequence[int],
    driver_ends: Sequence[int],
) -> tuple[str, int]:
    """Run a sweep to its end, and return its id and the exit code of its last driver."""
    waiting = list(crashes)
    driver = start(*arguments)
    for ends in driver_ends:
        disturb(workplace, driver, waiting, ends)
        assert driver.returncode == -signal.SIGKILL, (workplace / "terminal.txt").read_text()
        run_id = sweep_id(workplace)
        assert run_id is not None
        driver = start("resume", run_id, *stores(workplace))

    disturb(workplace, driver, waiting, None)
    run_id = sweep_id(workplace)
    assert run_id is not None and not waiting
    return run_id, driver.returncode


@pytest.mark.processes
@pytest.mark.timeout(1800)
def test_a_killed_sweep_loses_no_job_and_no_point(
    start: Start, workplace: Path, session: str, tiny_embedding_model: str
) -> None:
    arguments = sweep_arguments(workplace, session, tiny_embedding_model, 8, slots(3))
    run_id, exit_code = run_disturbed(start, workplace, arguments, crashes=[1], driver_ends=[3])

    check_accounts(workplace, run_id, 8, [1])
    assert exit_code == 1
    assert "1 of 8 jobs failed" in (workplace / "terminal.txt").read_text()


@pytest.mark.processes
@pytest.mark.timeout(1200)
def test_a_killed_sweep_of_one_process_goes_on_and_exports_to_the_folder_that_is_named(
    start: Start, workplace: Path, session: str, tiny_embedding_model: str
) -> None:
    arguments = sweep_arguments(
        workplace, session, tiny_embedding_model, 3, ["hydra/launcher=basic"]
    )
    driver = start(*arguments, "embedding.training.learning_rate=1e-2")
    disturb(workplace, driver, [], 1)
    run_id = sweep_id(workplace)
    assert run_id is not None and driver.returncode == -signal.SIGKILL
    ended = [job.has_ended for job in jobs_of(workplace, run_id)]

    elsewhere = workplace / "elsewhere"
    driver = start("resume", run_id, *stores(workplace), f"model_dir={elsewhere}")
    exit_code = driver.wait()

    printed = (workplace / "terminal.txt").read_text()
    assert exit_code == 0 and ended == [True, False, False], printed
    check_accounts(workplace, run_id, 3, [])
    assert "promoted" in printed and (elsewhere / "embedding").is_dir()
    # The folder was made by the check before the first job, and has stayed empty.
    assert not any((workplace / "models").iterdir())


def wait_for_running_jobs(workplace: Path, driver: "subprocess.Popen[str]", count: int) -> str:
    """Wait until so many jobs have logged a step, and return the id of the sweep."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert driver.poll() is None, (workplace / "terminal.txt").read_text()
        run_id = sweep_id(workplace)
        jobs = jobs_of(workplace, run_id) if run_id else []
        started = [job for job in jobs if job.mlflow_run_id and logged_steps(workplace, job)]
        if run_id and len(started) >= count:
            return run_id
        time.sleep(0.5)
    raise AssertionError("the jobs haven't started in time")


@pytest.mark.processes
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_once_saves_the_running_jobs_and_twice_kills_them(
    start: Start, workplace: Path, session: str, tiny_embedding_model: str, presses: int
) -> None:
    arguments = sweep_arguments(workplace, session, tiny_embedding_model, 3, slots(2))
    endless = ("embedding.training.max_steps=100000", "embedding.training.num_epochs=100000")
    driver = start(*arguments, *endless)
    run_id = wait_for_running_jobs(workplace, driver, 2)
    processes = running_jobs(driver)

    for _ in range(presses):
        driver.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert driver.wait(timeout=300) == 128 + signal.SIGINT

    # Nobody is left behind, the third job has never started, and the others go on later.
    assert len(processes) == 2
    wait_until_ended(processes)
    states = [job.state for job in jobs_of(workplace, run_id)]
    assert states == [JobState.RUNNING, JobState.RUNNING, JobState.WAITING]
    printed = (workplace / "terminal.txt").read_text()
    assert "2 jobs save and end" in printed and f"tunetrail resume {run_id}" in printed
    if presses == 1:
        for log in (workplace / "training_output").rglob("train.log"):
            assert "SIGINT: stopping after this step" in log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_sixty_four_jobs_of_eight_processes_survive_two_kills_of_their_driver(
    start: Start, workplace: Path, session: str, tiny_embedding_model: str
) -> None:
    crashes = sorted(random.Random(0).sample(range(64), 6))
    arguments = sweep_arguments(workplace, session, tiny_embedding_model, 64, slots(8))
    run_id, exit_code = run_disturbed(
        start, workplace, arguments, crashes=crashes, driver_ends=[16, 40]
    )

    check_accounts(workplace, run_id, 64, crashes)
    assert exit_code == 1
