"""Optuna's samplers, which choose the combinations of a sweep, and its pruners."""

import dataclasses
from importlib.util import find_spec

import optuna
from numpy.random import SeedSequence
from optuna.distributions import CategoricalDistribution
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler

from tunetrail.config import AUTO, SearchConfig
from tunetrail.config.checks import check
from tunetrail.errors import ConfigError
from tunetrail.sweeps.space import SearchSpace

# Its messages come on a handler of their own, next to tunetrail's log.
optuna.logging.set_verbosity(optuna.logging.WARNING)


def checked_search(search: SearchConfig, space: SearchSpace, objectives: int) -> SearchConfig:
    """Return how a sweep searches a space, with the sampler that `auto` stands for.

    Args:
        search: The settings.
        space: The parameters that vary.
        objectives: Number of objectives.

    Raises:
        ConfigError: The sampler can't search such a space, or the pruner can't compare jobs by
            several objectives.
    """
    is_automatic = search.sampler == AUTO
    if is_automatic:
        search = dataclasses.replace(search, sampler="tpe" if search.n_trials else "grid")
    check(
        search.pruner == "none" or objectives == 1,
        "hydra.sweeper.pruner",
        "none with several objectives",
        search.pruner,
    )

    for parameter in space.parameters:
        if search.sampler == "grid" and parameter.is_interval:
            setting = "n_trials must be given" if is_automatic else "sampler must not be grid"
            raise ConfigError(
                f"hydra.sweeper.{setting}, as {parameter.name} is an interval. Write "
                "hydra.sweeper.n_trials=20 without a sampler, or list the values: KEY=1,2."
            )
        is_choice = isinstance(parameter.distribution, CategoricalDistribution)
        if search.sampler == "cmaes" and is_choice:
            raise ConfigError(
                f"hydra.sweeper.sampler must be random or tpe, as {parameter.name} is a choice and "
                "no range or interval, got 'cmaes'."
            )
    if search.sampler == "cmaes":
        _check_cmaes(space)

    if search.sampler == "grid":
        check(
            search.n_trials is None,
            "hydra.sweeper.n_trials",
            "null for a grid, which has one job per combination",
            search.n_trials,
            "Set hydra.sweeper.sampler=random, or leave it out.",
        )
    else:
        check(
            search.n_trials is not None,
            "hydra.sweeper.n_trials",
            f"given for the sampler {search.sampler}",
            None,
            "Write hydra.sweeper.n_trials=20.",
        )
    return search


def _check_cmaes(space: SearchSpace) -> None:
    check(
        len(space.parameters) > 1,
        "hydra.sweeper.sampler",
        "random or tpe for a single parameter",
        "cmaes",
    )
    if find_spec("cmaes") is None:
        raise ConfigError(
            "hydra.sweeper.sampler must be random or tpe unless the package cmaes is installed, "
            "got 'cmaes'. pip install cmaes"
        )


def make_sampler(search: SearchConfig, job: int) -> BaseSampler:
    """Return the sampler that chooses the combination of one job.

    Its seed depends on the sweep's seed and the job's number only, so that a resumed sweep goes
    on as if it had never stopped, and two sweeps with neighbouring seeds share no draws.
    """
    seed = int(SeedSequence([search.seed, job]).generate_state(1)[0])
    if search.sampler == "tpe":
        return TPESampler(seed=seed, constant_liar=True)
    if search.sampler == "cmaes":
        return CmaEsSampler(seed=seed)
    return RandomSampler(seed=seed)


def make_pruner(search: SearchConfig) -> BasePruner:
    """Return the pruner of a sweep."""
    if search.pruner == "median":
        return MedianPruner(
            n_startup_trials=search.pruner_startup_jobs, n_warmup_steps=search.pruner_warmup_steps
        )

    first_rung = max(1, search.pruner_warmup_steps)
    factor = search.pruner_reduction_factor
    if search.pruner == "asha":
        return SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=factor)
    if search.pruner == "hyperband":
        return HyperbandPruner(min_resource=first_rung, reduction_factor=factor)
    return NopPruner()
