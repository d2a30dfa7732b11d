"""Sweeps of equal jobs hardly ever move root, and what a promoted job claims is nearly its true gain.

Each simulated sweep draws scores of rows and lets the functions of real sweeps choose and decide:
the best job by validation, one comparison on the test rows, the gate.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from tunetrail.config import EvaluationConfig, GateConfig
from tunetrail.deployment.gate import decide
from tunetrail.evaluation.comparison import Comparison, compare
from tunetrail.evaluation.metric import Floats
from tunetrail.evaluation.scores import Scores, scores_from
from tunetrail.sweeps.study import best_of
from tunetrail.sweeps.sweep_job import JobState, SweepJob
from tunetrail.sweeps.sweep_plan import Objective

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

METRIC = "ndcg_at_10"
ROWS = 200
DEVIATION = 0.12
"""Standard deviation of a row's difference between two models, as measured with fine-tunings."""
EQUAL_SWEEPS = 4_000
"""The standard error of a share of 2.5 % is then 0.25 points."""
BETTER_SWEEPS = 1_000
RESAMPLES = EvaluationConfig().bootstrap_samples
LEAST_T = 1.5
"""Student's t of the improvement below which no interval at 95 % lies above 0."""


@dataclass(frozen=True)
class Side:
    """The scores of the rows of one side: of the base model, and of each job."""

    base: Scores
    jobs: list[Scores]


def draw_side(generator: np.random.Generator, gains: Floats, correlation: float) -> Side:
    """Draw scores whose differences from the base correlate between any two jobs."""
    base = np.full(ROWS, 0.5)
    common = np.sqrt(correlation) * generator.standard_normal(ROWS)
    own = np.sqrt(1.0 - correlation) * generator.standard_normal((len(gains), ROWS))
    rows = base + gains[:, np.newaxis] + DEVIATION * (common + own)
    jobs = [scores_from({METRIC: row}, METRIC) for row in rows]
    return Side(scores_from({METRIC: base}, METRIC), jobs)


def job_of(number: int, scores: Scores) -> SweepJob:
    """The job with these scores on the validation rows, as a study knows it."""
    return SweepJob(
        number=number,
        overrides=(),
        state=JobState.FINISHED,
        values=(scores.value,),
        interval=None,
        mlflow_run_id=None,
        reason=None,
        seconds=None,
        steps=None,
    )


@dataclass(frozen=True)
class Promotions:
    """Of the sweeps that moved root: what the evidence claimed, and the job's true gain."""

    sweeps: int
    claimed: Floats
    true: Floats

    @property
    def share(self) -> float:
        return len(self.claimed) / self.sweeps

    @property
    def optimism(self) -> float:
        return float((self.claimed - self.true).mean())


def promotes(base: Scores, after: Scores, seed: int) -> Comparison | None:
    """The comparison if the gate promotes the job by it, else None."""
    comparison = compare(
        base,
        after,
        bootstrap_samples=RESAMPLES,
        confidence=EvaluationConfig().confidence,
        seed=seed,
    )
    return comparison if decide(comparison, GateConfig()).promote else None


def simulate(
    sweeps: int, jobs: int, correlation: float, *, mean: float = 0.0, spread: float = 0.0
) -> Promotions:
    """Simulate sweeps whose jobs have normally distributed true gains."""
    objective = Objective(name=METRIC, higher_is_better=True)
    generator, claimed, true = np.random.default_rng(0), [], []
    for sweep in range(sweeps):
        gains = mean + spread * generator.standard_normal(jobs)
        validation, test = (draw_side(generator, gains, correlation) for _ in range(2))

        best = best_of([job_of(*pair) for pair in enumerate(validation.jobs)], [objective])
        assert best is not None
        base, after = test.base, test.jobs[best.number]
        differences = after.per_example[METRIC] - base.per_example[METRIC]
        is_hopeless = ttest_1samp(differences, 0.0).statistic < LEAST_T
        # Most equal jobs are, and resampling takes nearly all of the time.
        if is_hopeless and sweep >= 100:
            continue
        promoted = promotes(base, after, sweep)
        assert promoted is None or not is_hopeless
        if promoted is not None:
            claimed.append(promoted.improvement)
            true.append(gains[best.number])
    return Promotions(sweeps, np.array(claimed), np.array(true))


@pytest.mark.parametrize("correlation", [0.5, 0.93])
def test_sweeps_of_equal_jobs_move_root_in_at_most_three_of_a_hundred(correlation: float) -> None:
    promotions = simulate(EQUAL_SWEEPS, 20, correlation)

    print(f"20 equal jobs, correlation {correlation}: root moved in {promotions.share:.2%}")
    assert promotions.share <= 0.03


def test_promoted_job_claims_nearly_its_true_gain() -> None:
    promotions = simulate(BETTER_SWEEPS, 16, 0.5, mean=0.02, spread=0.01)

    print(
        f"16 jobs with gains N(0.02, 0.01): root moved in {promotions.share:.1%}, true gain "
        f"{promotions.true.mean():.4f}, optimism {promotions.optimism:+.4f}"
    )
    # The chain of jobs that asked the test rows one after another had +0.004.
    assert promotions.optimism < 0.001
