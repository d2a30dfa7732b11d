"""Fold costs: how many folds are trained, so that they don't take longer than the training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunetrail.config import CrossValidationConfig, TrainingConfig
from tunetrail.data.splits import Fold
from tunetrail.learning.step_counts import budgeted, steps_of_epoch
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.reporting.readable import counted

SCORING_COST = 1.0 / 3.0
"""What it takes to score a row, as a share of a training step on it: the backward pass takes twice
as long as the forward pass (Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1)."""
FEWEST = 2
"""Folds that are trained whatever they cost: the score of a single one has no spread."""


@dataclass(frozen=True, kw_only=True)
class FoldChoice:
    """The folds that are trained.

    Attributes:
        folds: The folds, in order.
        all_folds: Number of folds of the cut.
        all_steps: Steps that all of these would take, their scoring included.
        training_steps: Steps of the training itself.
    """

    folds: Sequence[Fold]
    all_folds: int
    all_steps: int
    training_steps: int

    @property
    def note(self) -> str | None:
        """Return in a sentence why fewer folds are trained; None if all are."""
        if len(self.folds) == self.all_folds:
            return None
        return (
            f"only {len(self.folds)} of {self.all_folds} folds are trained, as all would take as "
            f"long as {counted(self.all_steps, 'step')} and the training itself takes "
            f"{self.training_steps:,}. "
            "Raise cross_validation.max_cost to train more."
        )


def affordable_folds(
    folds: Sequence[Fold],
    prepared: PreparedRows,
    training: TrainingConfig,
    config: CrossValidationConfig,
) -> FoldChoice:
    """Return as many folds as `cross_validation.max_cost` allows, at least two.

    By time, these are the latest, which come nearest to what the model is used for.

    Args:
        folds: All folds of the cut.
        prepared: The rows of the training.
        training: Its settings, without `auto`.
        config: The settings of the cross-validation.
    """
    # Rows are added to a fold in the same proportion as to the whole train side.
    train_rows = len(prepared.split.train)
    all_batches = batches_per_epoch(prepared, training)
    training_steps = steps_of_training(all_batches, training)
    costs: dict[int, float] = {}
    for fold in folds:
        batches = all_batches * len(fold.train) / train_rows
        # The fold's model and the base model score each row that the fold holds out.
        scored = 2.0 * all_batches * len(fold.validation) / train_rows
        scoring = SCORING_COST * scored / training.batches.accumulate
        costs[fold.number] = steps_of_training(batches, training, config.budget) + scoring

    by_time = prepared.split.method == "time"
    chosen: list[Fold] = []
    # Equal costs that differ in the last digit are equal.
    left = config.max_cost * training_steps + 1e-9
    for fold in reversed(folds) if by_time else folds:
        left -= costs[fold.number]
        if left < 0.0 and len(chosen) >= FEWEST:
            break
        chosen.append(fold)

    return FoldChoice(
        folds=sorted(chosen, key=lambda fold: fold.number),
        all_folds=len(folds),
        all_steps=math.ceil(sum(costs.values())),
        training_steps=training_steps,
    )


def batches_per_epoch(prepared: PreparedRows, training: TrainingConfig) -> float:
    """Return about how many batches an epoch of the training has."""
    additional = 0 if prepared.additional is None else len(prepared.additional)
    rows = len(prepared.train) + additional
    if training.batches.tokens:
        tokens_per_row = float(prepared.train["token_count"].clip(lower=1).mean())
        return rows * tokens_per_row / training.batches.tokens
    return rows / training.rows_per_batch


def steps_of_training(batches: float, training: TrainingConfig, budget: float = 1.0) -> int:
    """Return the steps of a training with this many batches per epoch.

    Args:
        batches: Batches of an epoch.
        training: The settings, without `auto`.
        budget: The share of the steps that is taken; below 1 for a fold.
    """
    return budgeted(training, steps_of_epoch(batches, training), budget).max_steps
