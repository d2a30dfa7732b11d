"""The outcome of a run: how far it came, and the results of the stages that it went through."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tunetrail.errors import ConfigError, did_you_mean
from tunetrail.evaluation.cross_validation import CrossValidationResult
from tunetrail.pipeline.stages.deploy import Deployment
from tunetrail.pipeline.stages.evaluate import Evaluation
from tunetrail.pipeline.stages.fit import FittedModel
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.pipeline.stages.score_validation import ValidationScores

STAGES: tuple[str, ...] = ("prepare", "cross_validate", "fit", "evaluate", "deploy")
"""The stages of a run, in order; it can end after any of them."""

STEPS: tuple[str, ...] = (
    "validation",
    "cleaning",
    "augmentation",
    "feature_engineering",
    "cross_validation",
    "training",
    "evaluation",
    "comparison",
    "deployment",
)
"""The steps of a run, in order: what its stages report."""


class OutcomeState(StrEnum):
    """Where a run ended."""

    # The run was told to stop here; its folder stays, so that it can be resumed.
    PREPARED = "prepared"
    CROSS_VALIDATED = "cross_validated"
    FITTED = "fitted"
    EVALUATED = "evaluated"
    # All stages are done, and the gate has decided.
    PROMOTED = "promoted"
    REFUSED = "refused"
    # The candidate has passed the gate, and a person has to approve it.
    WAITING = "waiting"
    # Ended within its training by the caller: neither a failure nor to be resumed.
    PRUNED = "pruned"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the run of one model type came to.

    Attributes:
        model_type: `embedding` or `llm`.
        mlflow_run_id: The run.
        state: Where it ended.
        steps: The results of the steps, in order.
        prepared: The result of the stage `prepare`; this and the following are None if the run
            ended before.
        cross_validation: The result of `cross_validate`; None as well if cross-validation is off.
        fitted: The result of `fit`.
        validation: The scores on the validation rows; only of a run that ends with the fit.
        evaluation: The result of `evaluate`.
        deployment: The result of `deploy`.
        reason: The reason why the run was pruned; None if it wasn't.
    """

    model_type: str
    mlflow_run_id: str
    state: OutcomeState
    steps: Mapping[str, Mapping[str, Any]]
    prepared: PreparedRows | None = None
    cross_validation: CrossValidationResult | None = None
    fitted: FittedModel | None = None
    validation: ValidationScores | None = None
    evaluation: Evaluation | None = None
    deployment: Deployment | None = None
    reason: str | None = None

    @property
    def objective(self) -> float | None:
        """The validation loss of the fitted weights, which a sweep minimises; None before."""
        return self.fitted.best_validation_loss if self.fitted else None

    def to_dict(self) -> dict[str, Any]:
        """Return the steps as plain values."""
        return {name: dict(step) for name, step in self.steps.items()}


class Pruned(Exception):  # noqa: N818
    """Raised by a caller's sink to end a run within its training, without a failure.

    Its text is the reason.
    """


def check_stage(stage: str) -> None:
    """Raise `ConfigError` unless `stage` is the name of one."""
    if stage not in STAGES:
        raise ConfigError(
            f"until must be one of {', '.join(STAGES)}, got {stage!r}.{did_you_mean(stage, STAGES)}"
        )
