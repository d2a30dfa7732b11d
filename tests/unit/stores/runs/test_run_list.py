from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tunetrail.config import TrackingConfig
from tunetrail.errors import UserError
from tunetrail.stores.runs.listed_run import ListedRun
from tunetrail.stores.runs.quick_runs import QuickRuns
from tunetrail.stores.runs.run_list import (
    existing_experiment,
    find_key,
    parse_conditions,
    read_runs,
    sort_runs,
)
from tunetrail.stores.tracking.tracker import Tracker


@pytest.fixture
def tracker(workplace: Path) -> Tracker:
    uri = f"sqlite:///{workplace}/mlflow.db"
    return Tracker(TrackingConfig(uri=uri, artifacts=str(workplace / "mlartifacts")))


def train(
    tracker: Tracker,
    name: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    *,
    state: str = "succeeded",
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """Leave what a training leaves in MLflow, with a fold below it, and return its id."""
    run = tracker.start_run(
        name,
        parent_run_id=parent,
        tags={
            "tunetrail.training_run": "t",
            "tunetrail.session_id": "s1",
            "tunetrail.model_type": "embedding",
            **(tags or {}),
        },
    )
    run.log_params(params)
    run.log_metrics(metrics)
    run.child("fold-1", {"tunetrail.fold": "1"}).finish("succeeded")
    run.finish(state, "no memory" if state == "failed" else None)
    return run.run_id


@pytest.fixture
def runs(tracker: Tracker) -> list[ListedRun]:
    """A good and a poor training, a failed one, and a sweep with a job."""
    key = "embedding.training.learning_rate"
    decided = {"tunetrail.embedding.decision": "promoted", "tunetrail.test_rows": "aaaa1111"}
    train(tracker, "good", {key: 3e-5, "seed": 7}, {"embedding/after": 0.9}, tags=decided)
    train(tracker, "poor", {key: 1e-3, "seed": 7}, {"embedding/after": 0.4})
    train(tracker, "broken", {key: 1e-4, "seed": 10}, {}, state="failed")
    sweep = tracker.start_run("a sweep", tags={"tunetrail.sweep": "x=1,2"})
    train(tracker, "job", {key: 1e-2, "seed": 7}, {}, parent=sweep.run_id)
    sweep.finish("succeeded")
    return read_runs(tracker)


def names(runs: list[ListedRun]) -> list[str]:
    return [run.name for run in runs]


def test_trainings_sweeps_and_their_jobs_are_listed_newest_first(runs: list[ListedRun]) -> None:
    assert names(runs) == ["job", "a sweep", "broken", "poor", "good"]
    job, sweep, broken, _, good = runs
    assert job.parent_run_id == sweep.run_id and sweep.parent_run_id is None
    assert (broken.state, broken.values["reason"]) == ("failed", "no memory")
    assert (good.decision, good.test_rows, good.state) == ("promoted", "aaaa1111", "succeeded")
    assert good.seconds is not None and good.seconds >= 0.0
    assert not any(name.startswith("mlflow.") for name in good.tags)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["learning_rate<=0.0001"], ["broken", "good"]),
        (["embedding.training.learning_rate = 3e-05"], ["good"]),
        # As numbers: as texts, 10 would come before 7.
        (["seed>7"], ["broken"]),
        (["seed=7", "after>0.5"], ["good"]),
        (["state=failed"], ["broken"]),
        (["state!=succeeded"], ["broken"]),
        (["decision=promoted"], ["good"]),
        (["name=a sweep"], ["a sweep"]),
        (["started>2000-01-01", "seed!=7"], ["broken"]),
        # A run without the metric fulfils nothing that is said of it.
        (["embedding/after!=0.9"], ["poor"]),
        ([], ["job", "a sweep", "broken", "poor", "good"]),
    ],
)
def test_conditions_choose_runs(
    runs: list[ListedRun], conditions: list[str], expected: list[str]
) -> None:
    parsed = parse_conditions(conditions, runs)

    assert names([run for run in runs if all(each.holds(run) for each in parsed)]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate", "--where must be KEY=VALUE, or with one of .*, got 'learning_rate'"),
        ("lerning_rate=1", "got 'lerning_rate'. Did you mean 'learning_rate'"),
        ("state>failed", "must have a number after >, got 'state>failed'. Use = or !="),
    ],
)
def test_conditions_are_checked(runs: list[ListedRun], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_conditions([text], runs)


def test_a_training_of_several_sessions_is_one_of_each(tracker: Tracker) -> None:
    train(tracker, "both", {}, {}, tags={"tunetrail.session_id": "s1+s2"})
    train(tracker, "first", {}, {})
    runs = read_runs(tracker)

    def names_where(condition: str) -> set[str]:
        (parsed,) = parse_conditions([condition], runs)
        return {run.name for run in runs if parsed.holds(run)}

    assert names_where("session=s2") == names_where("session=s1+s2") == {"both"}
    assert names_where("session=s1") == {"both", "first"}
    assert names_where("session!=s2") == {"first"}


def test_an_end_that_stands_for_several_names_is_refused(tracker: Tracker) -> None:
    train(tracker, "both", {"llm.max_length": 1, "embedding.max_length": 2}, {})
    runs = read_runs(tracker)

    message = "may be embedding.max_length, llm.max_length. Name one of them"
    with pytest.raises(UserError, match=message):
        find_key("--sort", "max_length", runs)


def test_runs_are_sorted_by_numbers_and_runs_without_the_key_come_last(
    runs: list[ListedRun],
) -> None:
    after = sort_runs(runs, "embedding/after", descending=True)
    seed = sort_runs(runs, "seed", descending=False)

    assert names(after)[:2] == ["good", "poor"] and len(after) == len(runs)
    assert names(seed) == ["job", "poor", "good", "broken", "a sweep"]


def test_figures_that_are_not_finite_are_left_out_of_the_plain_values(tracker: Tracker) -> None:
    train(tracker, "r", {}, {"a": 1.0})
    (run,) = read_runs(tracker)
    infinite = ListedRun(**{**vars(run), "metrics": {"a": 1.0, "b": float("inf")}})

    assert infinite.to_dict()["metrics"] == {"a": 1.0}


def test_a_metric_that_was_only_announced_has_no_value_but_comes_first(tracker: Tracker) -> None:
    run = tracker.start_run("r", tags={"tunetrail.training_run": "t"})

    run.announce_metric("validation/ndcg_at_10")
    run.log_metrics({"system/cpu": 3.0})
    run.finish("succeeded")

    for (listed,) in (read_runs(tracker), quick_runs(tracker).find(run.run_id)):
        assert listed.metrics == {"system/cpu": 3.0}
    run.log_metrics({"validation/ndcg_at_10": 0.5})
    run.finish("succeeded")
    assert list(tracker.client.get_run(run.run_id).data.metrics.items()) == [
        ("validation/ndcg_at_10", 0.5),
        ("system/cpu", 3.0),
    ]


def quick_runs(tracker: Tracker) -> QuickRuns:
    runs = QuickRuns.open(tracker.config.uri)
    assert runs is not None
    return runs


def test_an_experiment_that_is_not_there_is_refused(tracker: Tracker, workplace: Path) -> None:
    uri = tracker.config.uri

    with pytest.raises(UserError, match="nothing was trained with this store yet"):
        existing_experiment(uri, "tunetrial")
    tracker.start_run("r").finish("succeeded")
    with pytest.raises(UserError, match=r"must be one of tunetrail, got 'tunetrial'\. Did you"):
        existing_experiment(uri, "tunetrial")
    assert existing_experiment(uri, "tunetrail").experiment_id == tracker.experiment_id
