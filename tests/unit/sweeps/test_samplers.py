from typing import Any

import optuna
import pytest
from tests.unit.sweeps.test_swept_overrides import space_of

from tunetrail.config import SearchConfig
from tunetrail.errors import ConfigError
from tunetrail.sweeps.samplers import checked_search, make_sampler

INTERVAL = "rate=interval(0,1)"
CHOICE = "optimizer=adamw,sgd"


@pytest.mark.parametrize(
    ("overrides", "search", "sampler"),
    [
        ([CHOICE], {}, "grid"),
        ([CHOICE], {"n_trials": 3}, "tpe"),
        ([INTERVAL], {"n_trials": 3}, "tpe"),
        ([INTERVAL], {"n_trials": 3, "sampler": "random"}, "random"),
    ],
)
def test_automatic_sampler(overrides: list[str], search: dict[str, Any], sampler: str) -> None:
    assert checked_search(SearchConfig(**search), space_of(*overrides), 1).sampler == sampler


@pytest.mark.parametrize(
    ("overrides", "search", "message"),
    [
        ([INTERVAL], {}, "hydra.sweeper.n_trials must be given, as rate is an interval"),
        ([INTERVAL], {"sampler": "grid"}, "hydra.sweeper.sampler must not be grid, as rate is"),
        ([CHOICE], {"sampler": "grid", "n_trials": 3}, "n_trials must be null for a grid"),
        ([CHOICE], {"sampler": "random"}, "n_trials must be given for the sampler random"),
        (
            [INTERVAL, CHOICE],
            {"sampler": "cmaes", "n_trials": 3},
            "must be random or tpe, as optimizer is a choice",
        ),
        ([INTERVAL], {"sampler": "cmaes", "n_trials": 3}, "random or tpe for a single parameter"),
    ],
)
def test_sampler_that_cannot_search_the_space_is_refused(
    overrides: list[str], search: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        checked_search(SearchConfig(**search), space_of(*overrides), 1)


def test_pruner_compares_jobs_by_one_objective() -> None:
    with pytest.raises(
        ConfigError, match="pruner must be none with several objectives, got 'asha'"
    ):
        checked_search(SearchConfig(pruner="asha"), space_of(CHOICE), 2)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_cmaes_comes_near_the_best_values_and_keeps_no_pickle(direction: str) -> None:
    sign = 1.0 if direction == "minimize" else -1.0
    study = optuna.create_study(direction=direction)

    # Each job has a sampler of its own, as in a sweep that is resumed before each of them.
    for job in range(120):
        study.sampler = make_sampler(SearchConfig(sampler="cmaes", n_trials=120), job)
        trial = study.ask()
        first, second = trial.suggest_float("first", 0, 1), trial.suggest_float("second", 0, 1)
        study.tell(trial, sign * ((first - 0.3) ** 2 + (second - 0.8) ** 2))

    last_trials = study.trials[-12:]
    distances = [abs(trial.value or 0.0) ** 0.5 for trial in last_trials]
    assert max(distances) < 0.1
    attributes = {name for trial in study.trials for name in trial.system_attrs}
    assert attributes == {"cma:generation"}
