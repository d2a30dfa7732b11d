"""Optuna's samplers, which choose the combinations of a sweep, and its pruners."""

import optuna
from numpy.random import SeedSequence
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler, TPESampler

from tunetrail.config import SearchConfig

# Its messages come on a handler of their own, next to tunetrail's log.
optuna.logging.set_verbosity(optuna.logging.WARNING)


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
