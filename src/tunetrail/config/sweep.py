"""Settings of sweeps: what their jobs are compared by, and how combinations are chosen."""

from dataclasses import dataclass
from typing import Any

from tunetrail.config.checks import (
    Rule,
    at_least,
    check_identifier,
    check_settings,
    one_of,
    setting,
)
from tunetrail.config.training import AUTO

SAMPLERS = ("grid", "random", "tpe", "cmaes")
PRUNERS = ("none", "median", "asha", "hyperband")
SET_BY_SWEEP = ("sweep.run_id", "sweep.job")
"""Keys that say which job of which sweep a training is; nobody sets them by hand."""


def _names_objectives(value: object) -> bool:
    """Tell whether a value is a name or a list of different names."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names:
        return False
    are_texts = all(isinstance(name, str) and name for name in names)
    return are_texts and len(set(names)) == len(names)


@dataclass(kw_only=True)
class SweepConfig:
    """What the jobs of a sweep are compared by, and what becomes of the best one."""

    objective: Any = setting(AUTO, Rule("a name or a list of different names", _names_objectives))
    """Metric of the validation rows by which jobs are compared, as in
    `sweep.objective=recall_at_10`; `auto` is the primary metric of the model type. A list of
    several gives the jobs of which no other is better in all of them (the Pareto front)."""

    promote: str = setting("winner", one_of("winner", "none"))
    """What follows when no job is left: `winner` evaluates the best job on the test rows and moves
    root to it if it passes the gate; `none` leaves root alone."""

    run_id: str | None = None
    """MLflow run of the sweep that a training is a job of. The sweep sets it."""

    job: int | None = setting(None, at_least(0))
    """Number of the training within its sweep, from 0. The sweep sets it."""

    def __post_init__(self) -> None:
        check_settings("sweep", self)
        if self.run_id is not None:
            check_identifier("sweep.run_id", self.run_id)

    @property
    def objective_names(self) -> tuple[str, ...]:
        """The names in `objective`, in their order."""
        return (self.objective,) if isinstance(self.objective, str) else tuple(self.objective)


@dataclass(kw_only=True)
class SearchConfig:
    """How a sweep chooses the combinations that it trains, and which jobs it ends early."""

    sampler: str = setting(AUTO, one_of(AUTO, *SAMPLERS))
    """Who chooses the combinations: `grid` trains all of them; `random` draws them; `tpe` (Bergstra
    et al. 2011, https://papers.nips.cc/paper/4443) and `cmaes` (Hansen 2016,
    https://arxiv.org/abs/1604.00772) learn from finished jobs. `auto` is
    `grid`, or `tpe` if `n_trials` is given."""

    n_trials: int | None = setting(None, at_least(1))
    """Number of jobs that `random`, `tpe` and `cmaes` train. A grid has one per combination."""

    seed: int = setting(42, Rule("between 0 and 2**32 - 1", lambda seed: 0 <= seed < 2**32))
    """Seed of the sampler."""

    pruner: str = setting("none", one_of(*PRUNERS))
    """Who ends hopeless jobs early: `median` those worse than the median of earlier jobs at the
    same step; `asha` all but the best share at each rung of steps (Li et al. 2018,
    https://arxiv.org/abs/1810.05934); `hyperband` the same with several first rungs (Li et al.
    2017, https://arxiv.org/abs/1603.06560)."""

    pruner_startup_jobs: int = setting(5, at_least(0))
    """Number of jobs that have to finish before `median` ends one."""

    pruner_warmup_steps: int = setting(0, at_least(0))
    """Steps that each job trains before it can be ended; for `asha` and `hyperband` the first
    rung."""

    pruner_reduction_factor: int = setting(3, at_least(2))
    """One in how many jobs `asha` and `hyperband` let pass each rung; the next rung is at as many
    times the steps."""

    def __post_init__(self) -> None:
        check_settings("hydra.sweeper", self)
