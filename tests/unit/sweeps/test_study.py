import math
import multiprocessing
import os
import signal
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from tunetrail.config import SearchConfig
from tunetrail.errors import TrainingError, UserError
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.sweeps.space import Parameter, SearchSpace
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.sweep_job import JobState
from tunetrail.sweeps.sweep_plan import Objective

NDCG = Objective(name="ndcg_at_10", higher_is_better=True)
LOSS = Objective(name="loss", higher_is_better=False)
RATES = Parameter(
    key="rate",
    distribution=CategoricalDistribution([1e-5, 2e-5, 3e-5]),
    texts=("1e-5", "2e-5", "3e-5"),
)
OPTIMIZERS = Parameter(
    key="+optimizer", distribution=CategoricalDistribution(["adamw", "sgd"]), texts=("adamw", "sgd")
)
GRID = SearchSpace((RATES, OPTIMIZERS))
INTERVAL = SearchSpace(
    (Parameter(key="rate", distribution=FloatDistribution(0.1, 0.9)), OPTIMIZERS)
)


def new_study(
    manager: DatabaseManager, *objectives: Objective, space: SearchSpace = GRID, **search: Any
) -> SweepStudy:
    """A study of a sweep `s`; a grid has all of its jobs."""
    study = SweepStudy.create(
        manager,
        "s",
        objectives or (NDCG,),
        search=SearchConfig(**search),
        space=space,
        overrides=["seed=1"],
    )
    if space.is_finite:
        for values in space.grid():
            study.add_job(values)
    return study


def test_jobs_of_a_grid_wait_in_the_order_of_the_grid(manager: DatabaseManager) -> None:
    new_study(manager)
    jobs = SweepStudy.open(manager, "s").jobs()

    assert [job.number for job in jobs] == list(range(6))
    assert {job.state for job in jobs} == {JobState.WAITING}
    assert jobs[0].overrides == ("rate=1e-5", "+optimizer=adamw")
    assert jobs[3].overrides == ("rate=2e-5", "+optimizer=sgd")


def test_study_opens_with_what_it_was_made_with(manager: DatabaseManager) -> None:
    made = new_study(manager, NDCG, LOSS, sampler="random", n_trials=3, pruner="median")
    opened = SweepStudy.open(manager, "s")
    assert opened.plan == made.plan and opened.objectives == (NDCG, LOSS)


def test_unknown_sweep_names_the_database(manager: DatabaseManager) -> None:
    with pytest.raises(UserError, match=r"has no sweep nobody. Name the one"):
        SweepStudy.open(manager, "nobody")


def test_ends_of_jobs_are_told_once_and_read_by_everybody(manager: DatabaseManager) -> None:
    study = new_study(manager)
    for number in range(4):
        study.start_job(number, f"run-{number}")
    study.finish_job(0, [0.7], interval=(0.6, 0.8), seconds=1.5, steps=10)
    study.finish_job(1, [math.nan], seconds=2.0, steps=3)
    study.report(2, 0.5, 4)
    study.prune_job(2, "worse than the median", steps=4)
    study.fail_job(3, "out of memory")
    study.fail_job(4, "never started")
    study.fail_job(0, "the driver believed it dead")

    jobs = SweepStudy.open(manager, "s").jobs()
    states = [job.state.value for job in jobs]
    assert states == ["finished", "failed", "pruned", "failed", "failed", "waiting"]
    first = jobs[0]
    assert (first.values, first.interval, first.seconds, first.steps) == (
        (0.7,),
        (0.6, 0.8),
        1.5,
        10,
    )
    assert first.reason is None and first.mlflow_run_id == "run-0"
    assert [job.reason for job in jobs[1:5]] == [
        "ndcg_at_10 is nan",
        "worse than the median",
        "out of memory",
        "never started",
    ]
    assert jobs[2].values is None


def test_ended_job_does_not_start_again_but_a_running_one_does(manager: DatabaseManager) -> None:
    study = new_study(manager)
    study.start_job(0, "first")
    study.start_job(0, "second")
    assert study.job(0).mlflow_run_id == "second" and study.job(0).state == JobState.RUNNING

    study.finish_job(0, [1.0])
    with pytest.raises(TrainingError, match="job 0 of the sweep s has already ended: finished"):
        study.start_job(0, "third")


def test_unknown_job_is_refused(manager: DatabaseManager) -> None:
    with pytest.raises(
        UserError, match=r"sweep.job must be a job of the sweep s, which has 6, got 6"
    ):
        new_study(manager).start_job(6, "run")


@pytest.mark.parametrize(("objective", "best"), [(NDCG, 2), (LOSS, 1)])
def test_best_job_is_the_first_of_the_best(
    manager: DatabaseManager, objective: Objective, best: int
) -> None:
    study = new_study(manager, objective)
    assert study.best() is None
    for number, value in enumerate([0.5, 0.1, 0.9, 0.9, 0.1]):
        study.finish_job(number, [value])
    study.fail_job(5, "broken")

    winner = SweepStudy.open(manager, "s").best()
    assert winner is not None and winner.number == best


def test_front_has_the_jobs_that_no_other_beats_in_all_objectives(manager: DatabaseManager) -> None:
    study = new_study(manager, NDCG, LOSS)
    for number, values in enumerate([[0.5, 0.1], [0.9, 0.8], [0.4, 0.2], [0.9, 0.9], [0.6, 0.5]]):
        study.finish_job(number, values)

    assert [job.number for job in study.front()] == [0, 1, 4]
    best = study.best()
    assert best is not None and best.number == 1


def test_median_pruner_ends_a_hopeless_job(manager: DatabaseManager) -> None:
    study = new_study(manager, pruner="median", pruner_startup_jobs=2, pruner_warmup_steps=4)
    for number, value in enumerate([0.8, 0.9]):
        study.start_job(number, "run")
        study.report(number, value, 5)
        study.report(number, value, 5)
        study.finish_job(number, [value])
    study.start_job(2, "run")
    study.start_job(3, "run")

    opened = SweepStudy.open(manager, "s")
    opened.report(2, 0.1, 4)
    opened.report(3, 0.95, 5)
    assert not opened.should_stop(2) and not opened.should_stop(3)
    opened.report(2, 0.1, 5)
    opened.report(2, math.nan, 6)
    assert opened.should_stop(2)


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
def test_rungs_end_all_but_the_best_share(manager: DatabaseManager, pruner: str) -> None:
    study = new_study(manager, pruner=pruner, pruner_reduction_factor=2, pruner_warmup_steps=2)
    for number, value in enumerate([0.9, 0.8, 0.7, 0.1]):
        study.start_job(number, "run")
        for step in range(1, 9):
            study.report(number, value, step)
            if study.should_stop(number):
                study.prune_job(number, "rung")
                break
        else:
            study.finish_job(number, [value])
    states = [study.job(number).state.value for number in range(4)]
    assert states[0] == "finished" and "pruned" in states


def test_no_pruning_with_several_objectives(manager: DatabaseManager) -> None:
    study = new_study(manager, NDCG, LOSS, pruner="median", pruner_startup_jobs=0)
    study.report(0, 0.1, 1)
    assert not study.should_stop(0)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_sampler_chooses_the_same_after_a_restart(manager: DatabaseManager, sampler: str) -> None:
    def overrides_of_jobs(sweep: str, restart: bool) -> list[tuple[str, ...]]:
        search = SearchConfig(sampler=sampler, n_trials=12, seed=3)
        study = SweepStudy.create(manager, sweep, [NDCG], search=search, space=INTERVAL)
        for number in range(12):
            if restart:
                study = SweepStudy.open(manager, sweep)
            job = study.ask_job()
            assert job.number == number and job.state == JobState.WAITING
            rate = float(job.overrides[0].partition("=")[2])
            study.finish_job(job.number, [1.0 - (rate - 0.5) ** 2])
        return [job.overrides for job in study.jobs()]

    without_restarts = overrides_of_jobs("a", restart=False)
    assert overrides_of_jobs("b", restart=True) == without_restarts
    assert len(set(without_restarts)) == 12


def test_job_that_was_half_chosen_is_completed(manager: DatabaseManager) -> None:
    study = new_study(manager, space=INTERVAL, sampler="random", n_trials=2)
    chosen = study.ask_job().overrides
    other = SweepStudy.create(manager, "other", [NDCG], search=study.plan.search, space=INTERVAL)
    # What is left of a driver that was killed after it had chosen the first value.
    rate = INTERVAL.parameters[0]
    other.optuna_study.ask({rate.name: rate.distribution})

    job = SweepStudy.open(manager, "other").ask_job()
    assert job.number == 0 and len(job.overrides) == 2 == len(chosen)
    assert [one.number for one in other.jobs()] == [0]


def work_on_job(url: str, number: int) -> None:
    """Do what a job's process does; every third dies in the middle."""
    with DatabaseManager(url) as manager:
        study = SweepStudy.open(manager, "s")
        study.start_job(number, f"run-{number}")
        for step in range(3):
            study.report(number, number / 10, step)
        if number % 3 == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        study.finish_job(number, [number / 10], steps=3)


@pytest.mark.processes
def test_processes_tell_one_study_how_they_ended(url: str, manager: DatabaseManager) -> None:
    new_study(manager)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work_on_job, args=(url, number)) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    study = SweepStudy.open(manager, "s")
    states = [job.state.value for job in study.jobs()]
    assert states == ["finished", "finished", "running"] * 2
    best = study.best()
    assert best is not None and best.number == 4 and best.values == (0.4,)
    reports = [trial.intermediate_values for trial in study.optuna_study.get_trials()]
    assert reports == [dict.fromkeys(range(3), number / 10) for number in range(6)]
