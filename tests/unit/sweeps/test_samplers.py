from typing import Any

import pytest
from tests.unit.sweeps.test_swept_overrides import space_of

from tunetrail.config import SearchConfig
from tunetrail.errors import ConfigError
from tunetrail.sweeps.samplers import checked_search

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
