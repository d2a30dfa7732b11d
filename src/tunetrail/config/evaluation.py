"""Settings of the evaluation: cross-validation, the comparison with root, and the gate."""

import math
from dataclasses import dataclass

from tunetrail.config.checks import ABOVE_ZERO_TO_ONE, Rule, at_least, check_settings, setting


@dataclass(kw_only=True)
class CrossValidationConfig:
    """How many folds are trained before the training itself, and for how long."""

    # With one fold, there would be no other rows to train on.
    n_splits: int = setting(
        5, Rule("0 (off) or at least 2", lambda splits: splits == 0 or splits >= 2)
    )
    """Folds of the cross-validation over the train side; 0 turns it off."""

    budget: float = setting(0.2, ABOVE_ZERO_TO_ONE)
    """Share of a full training's steps that each fold gets. With 0.2, five folds cost about
    as much as one more training."""

    def __post_init__(self) -> None:
        check_settings("cross_validation", self)


@dataclass(kw_only=True)
class EvaluationConfig:
    """How candidates are scored and compared with root: by a paired bootstrap over whole groups."""

    batch_size: int = setting(32, at_least(1))
    """Rows that a language model scores at a time: a matter of memory and speed, not of the
    scores."""

    corpus_size: int = setting(20_000, at_least(0))
    """Rows of the session, other than the scored ones, whose texts the queries are ranked
    against, drawn by their content if there are more. With 0, only the scored rows' own texts are
    ranked: so few that most models find them all, and gains hardly show."""

    # With 100 resamples, a bound at 2.5 % rests on the two or three most extreme ones.
    bootstrap_samples: int = setting(10_000, at_least(100))
    """Resamples drawn for the interval of the improvement."""

    # Below one half, the interval would miss the true improvement more often than hold it.
    confidence: float = setting(
        0.95, Rule("at least 0.5 and below 1", lambda confidence: 0.5 <= confidence < 1.0)
    )
    """Confidence level of the interval of the improvement."""

    def __post_init__(self) -> None:
        check_settings("evaluation", self)


@dataclass(kw_only=True)
class GateConfig:
    """When the alias root moves to the candidate."""

    # Below 0 is allowed: it tolerates a candidate that is slightly worse.
    minimum_improvement: float = setting(0.0, Rule("finite", math.isfinite))
    """Improvement of the metric that must be exceeded, in the metric's own unit; 0 asks for
    any improvement."""

    minimum_test_clusters: int = setting(20, at_least(1))
    """Independent test rows (groups of related rows count once) below which nothing is promoted:
    a handful of rows can't tell."""

    require_interval: bool = True
    """Demand that the lower bound of the interval exceeds `minimum_improvement`. False is
    satisfied with the point estimate: for small test splits, at your own risk."""

    def __post_init__(self) -> None:
        check_settings("gate", self)
