"""Estimate: what each stage of a run takes, from its workload and from measured speeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunetrail.pipeline.fold_costs import SCORING_COST
from tunetrail.pipeline.planning.division import Division
from tunetrail.pipeline.planning.workload import Workload
from tunetrail.plain_values import plain_values
from tunetrail.reporting.readable import counted, duration

CHECKPOINT_FILES = 4
"""The best checkpoint, the last one, the last good one, and the one that is being written."""


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What a few steps of the real model on real rows have taken on this machine.

    Attributes:
        load_seconds: What the first training of a process takes before its first step: loading the
            model, and whatever libraries do once.
        read_seconds: Reading the model again.
        train_seconds: Of a token in a training step.
        validation_seconds: Of a token in a validation.
        score_seconds: Of a token that a finished model scores.
        checkpoint_seconds: Writing both checkpoints of a validation, the last one and the best one.
        save_seconds: Writing the trained model once.
        answer_seconds: Writing all answers of the evaluation with one model, at most.
        read_tokens: Tokens that the model reads for each token that the preparation counts: it
            counts the longest text of a row, and a row may have several.
        padding_share: Share of padding in the computed tokens.
        memory_bytes: The most that the device held: of a CPU, all memory of the process.
        checkpoint_bytes: Size of one checkpoint.
        model_bytes: Size of the trained model's files.
        slowdown: Wall-clock time over computing time: above 1 if other processes use the cores.
        steps: Optimizer steps that were timed.
        age_seconds: How long ago that was; 0 if it was for this plan.
    """

    load_seconds: float
    read_seconds: float
    train_seconds: float
    validation_seconds: float
    score_seconds: float
    checkpoint_seconds: float
    save_seconds: float
    answer_seconds: float
    read_tokens: float
    padding_share: float
    memory_bytes: int
    checkpoint_bytes: int
    model_bytes: int
    slowdown: float
    steps: int
    age_seconds: float = 0.0

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Speeds":
        """Return the speeds that `to_dict` gave."""
        return cls(**plain)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return plain_values(self)


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What one stage will take.

    Attributes:
        stage: Its name: `start`, `prepare`, `mining`, `search`, `cross_validation`, `training`,
            `evaluation` or `deployment`.
        seconds: Wall-clock time.
        detail: What is computed, in a few words.
    """

    stage: str
    seconds: float
    detail: str


@dataclass(frozen=True, kw_only=True)
class FixedSeconds:
    """What stages take whatever the model: reading, drawing, and the records in MLflow.

    The defaults are seconds of computing time, measured with tiny models, and for the evaluation
    with small models (lab log, 2026-11-30).

    Attributes:
        start: Importing the libraries, in wall-clock time; 0 if they are.
        prepare: Validation, cleaning and split, in wall-clock time as the plan has measured them.
        opening: Opening the stores, and the records of the preparation.
        fold: A fold's run in MLflow.
        training: The curves and the run's records.
        evaluation: Intervals, slices, pictures and tables.
        deployment: Registration, model card and report.
        fresh_process: Importing the libraries in the process that scores the registered version; 0
            if `gate.fresh_process` is off.
    """

    start: float
    prepare: float
    opening: float = 2.5
    fold: float = 0.5
    training: float = 1.0
    evaluation: float = 1.5
    deployment: float = 2.0
    fresh_process: float = 6.0


# A version is written, read again for its digest, checked, and exported as a plain folder.
_MODEL_COPIES = 4


def estimate_stages(
    work: Workload,
    speeds: Speeds,
    fixed: FixedSeconds,
    *,
    search_steps: int = 0,
    division: Division | None = None,
) -> list[StageEstimate]:
    """Return what each stage of a run takes, in the order in which they run.

    Args:
        work: What is computed.
        speeds: What it takes.
        fixed: What comes on top.
        search_steps: Steps of the search for a learning rate; 0 without one.
        division: How several devices divide the trainings; None if there is one.
    """
    division = division or Division()
    one_device_seconds = speeds.train_seconds * work.tokens_per_step
    step_seconds = one_device_seconds / division.devices
    mining_seconds = SCORING_COST * speeds.train_seconds * work.tokens["train"]
    stages = []
    if fixed.start:
        stages.append(StageEstimate(stage="start", seconds=fixed.start, detail="libraries"))
    stages.append(
        StageEstimate(
            stage="prepare",
            seconds=fixed.prepare + speeds.slowdown * fixed.opening,
            detail="validation, cleaning and split",
        )
    )
    if work.minings:
        seconds = speeds.read_seconds + work.minings * mining_seconds
        detail = "hard negatives of the train rows and of the folds'"
        stages.append(StageEstimate(stage="mining", seconds=seconds, detail=detail))
    # Only the first of several trainings in this process waits for what libraries do once.
    first_load, load_seconds = speeds.load_seconds, speeds.read_seconds
    if search_steps:
        seconds = first_load + search_steps * one_device_seconds
        detail = f"learning rate, {counted(search_steps, 'step')}"
        stages.append(StageEstimate(stage="search", seconds=seconds, detail=detail))
        first_load = speeds.read_seconds
    if not division.is_alone:
        first_load = load_seconds = division.start_seconds + speeds.load_seconds
    if work.folds:
        loading = first_load + (work.fold_arms * len(work.folds) - 1) * load_seconds
        stages.append(_cross_validation(work, speeds, fixed, loading, step_seconds))
        first_load = load_seconds

    scoring = speeds.validation_seconds * work.validation_tokens / division.devices
    # Each validation writes the last checkpoint, and about every second one, the first included, is
    # the best so far.
    checkpoint_files = work.validations + (work.validations + 1) / 2
    stages.append(
        StageEstimate(
            stage="training",
            seconds=first_load
            # The checks before the first step take about as long as one.
            + (work.steps + 1) * step_seconds
            + work.validations * scoring
            + checkpoint_files * speeds.checkpoint_seconds / 2
            + work.reminings * mining_seconds
            + speeds.save_seconds
            + speeds.slowdown * fixed.training,
            detail=f"{counted(work.steps, 'step')}, {counted(work.validations, 'validation')}",
        )
    )

    test_tokens = work.test_tokens + work.further_test_tokens
    scoring = 2.0 * (speeds.score_seconds * test_tokens + speeds.answer_seconds)
    stages += [
        StageEstimate(
            stage="evaluation",
            seconds=2.0 * speeds.read_seconds + scoring + speeds.slowdown * fixed.evaluation,
            detail=_scored_rows(work),
        ),
        StageEstimate(
            stage="deployment",
            # What is registered is read again, and must give the trained model's outputs; once more
            # in a fresh process.
            seconds=_MODEL_COPIES * speeds.save_seconds
            + (2.0 if fixed.fresh_process else 1.0) * speeds.read_seconds
            + speeds.slowdown * (fixed.deployment + fixed.fresh_process),
            detail="registered, compared, exported",
        ),
    ]
    return stages


def _scored_rows(work: Workload) -> str:
    further = f" and {work.further_test_rows:,} of others" if work.further_test_rows else ""
    return f"{counted(work.rows['test'], 'test row')}{further}, scored by both models"


def _cross_validation(
    work: Workload, speeds: Speeds, fixed: FixedSeconds, loading: float, step_seconds: float
) -> StageEstimate:
    trained = work.fold_arms * len(work.folds)
    fixed_seconds = trained * speeds.slowdown * fixed.fold
    scoring = speeds.score_seconds * work.fold_tokens

    fold_steps = counted(work.fold_steps, "step")
    detail = f"{len(work.folds)} of {work.all_folds} folds, {fold_steps}"
    if work.fold_arms > 1:
        detail += ", with and without added rows"
    seconds = loading + fixed_seconds + work.fold_steps * step_seconds + scoring
    return StageEstimate(stage="cross_validation", seconds=seconds, detail=detail)


def cross_validation_note(stages: Sequence[StageEstimate]) -> str | None:
    """Return a sentence if the folds take longer than the training, with the settings; or None."""
    seconds = {stage.stage: stage.seconds for stage in stages}
    folds, training = seconds.get("cross_validation", 0.0), seconds["training"]
    if folds <= training:
        return None
    return (
        f"cross-validation takes longer ({duration(folds)}) than the training "
        f"({duration(training)}). Lower cross_validation.max_cost or cross_validation.n_splits; "
        "cross_validation=off leaves it out."
    )


def disk_bytes(speeds: Speeds) -> dict[str, int]:
    """Return what a training needs on the disk: `while_training`, then what stays."""
    return {
        "while_training": CHECKPOINT_FILES * speeds.checkpoint_bytes + speeds.model_bytes,
        "registered_version": speeds.model_bytes,
        "exported_folder": speeds.model_bytes,
    }
