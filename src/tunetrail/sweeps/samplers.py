"""Optuna's samplers, which choose the combinations of a sweep, and its pruners."""

import dataclasses
from typing import Any

import optuna
from numpy.random import SeedSequence
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

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
    check(
        search.sampler != "cmaes" or len(space.parameters) > 1,
        "hydra.sweeper.sampler",
        "random or tpe for a single parameter",
        search.sampler,
    )
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


def make_sampler(search: SearchConfig, job: int) -> BaseSampler:
    """Return the sampler that chooses the combination of one job.

    Its seed depends on the sweep's seed and the job's number only, so that a resumed sweep goes
    on as if it had never stopped, and two sweeps with neighbouring seeds share no draws.
    """
    seed = int(SeedSequence([search.seed, job]).generate_state(1)[0])
    if search.sampler == "tpe":
        return TPESampler(seed=seed, constant_liar=True)
    if search.sampler == "cmaes":
        return _RelearntCmaEsSampler(seed=seed)
    return RandomSampler(seed=seed)


class _RelearntCmaEsSampler(CmaEsSampler):
    """CMA-ES that learns its state from the finished jobs again whenever it is asked.

    Optuna's own sampler keeps the state in the study as a pickle, which could run code when it is
    read. The state follows from the generations of finished jobs, so nothing has to be kept.
    """

    _study: optuna.Study
    _search_space_asked: dict[str, BaseDistribution]

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """Return the values of a job, as Optuna's sampler does."""
        self._study, self._search_space_asked = study, search_space
        return super().sample_relative(study, trial, search_space)

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        """Return the state after all generations that are complete."""
        transform = _SearchSpaceTransform(self._search_space_asked, transform_0_1=True)
        optimizer = self._init_optimizer(transform, self._study.direction)
        is_maximized = self._study.direction == optuna.study.StudyDirection.MAXIMIZE

        while True:
            trials = self._get_solution_trials(completed_trials, optimizer.generation)
            if len(trials) < optimizer.population_size:
                return optimizer

            solutions = []
            for trial in trials[: optimizer.population_size]:
                assert trial.value is not None
                cost = -trial.value if is_maximized else trial.value
                solutions.append((transform.transform(trial.params), cost))
            optimizer.tell(solutions)

    def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
        """Return no state to keep."""
        return {}


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
