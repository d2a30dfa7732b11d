"""Workload: the rows, tokens and steps of a training, counted before anything is computed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from tunetrail.config import Settings, TrainingConfig
from tunetrail.data.splits import make_folds
from tunetrail.learning.step_counts import steps_of_epoch
from tunetrail.pipeline.fold_costs import affordable_folds, batches_per_epoch, steps_of_training
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.plain_values import plain_values


@dataclass(frozen=True, kw_only=True)
class FoldWork:
    """What one fold of the cross-validation computes.

    Attributes:
        steps: Its optimizer steps.
        held_out_tokens: Tokens of the rows that it scores.
        corpus_tokens: Tokens of the rows that these are ranked against.
        train_share: Its rows as a share of the train rows.
    """

    steps: int
    held_out_tokens: int
    corpus_tokens: int = 0
    train_share: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the stages of a run compute. Tokens are counted as the preparation counts a row.

    Attributes:
        rows: Rows by side: `train`, `validation`, `test`.
        tokens: Their tokens by side.
        steps_per_epoch: Optimizer steps of an epoch.
        steps: Optimizer steps of the training, if nothing ends it early.
        validations: Validations of the training.
        validation_tokens: Tokens that a validation scores, ranked rows included.
        test_tokens: Tokens that the evaluation scores with each model, the ranked ones included.
        folds: The folds that are trained.
        all_folds: Folds of the cut, of which `cross_validation.max_cost` may allow fewer.
        fold_arms: How often each fold is trained: twice if rows are added by augmentation.
        fold_note: Why fewer folds are trained; None if all are.
        base_remembers: Whether the base model reads a text once for all folds.
        minings: How often as many rows as the train rows are encoded to mine their negatives before
            the training: for the training, and a share for each fold.
        reminings: How often they are encoded again between its epochs.
        further_test_rows: Rows of earlier sessions and of a general file that are scored as well.
        further_test_tokens: Their tokens.
    """

    rows: Mapping[str, int]
    tokens: Mapping[str, int]
    steps_per_epoch: int
    steps: int
    validations: int
    validation_tokens: int
    test_tokens: int
    folds: Sequence[FoldWork] = ()
    all_folds: int = 0
    fold_arms: int = 1
    fold_note: str | None = None
    base_remembers: bool = False
    minings: float = 0.0
    reminings: int = 0
    further_test_rows: int = 0
    further_test_tokens: int = 0

    @property
    def epochs(self) -> float:
        """Passes over the train rows."""
        return self.steps / self.steps_per_epoch

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens of an optimizer step."""
        return self.tokens["train"] / self.steps_per_epoch

    @property
    def fold_steps(self) -> int:
        """Optimizer steps of all folds together."""
        return self.fold_arms * sum(fold.steps for fold in self.folds)

    @property
    def fold_tokens(self) -> int:
        """Tokens that the folds' models and the base model score together."""
        held_out = sum(fold.held_out_tokens for fold in self.folds)
        corpora = [fold.corpus_tokens for fold in self.folds]
        read_by_base = max(corpora, default=0) if self.base_remembers else sum(corpora)
        return (self.fold_arms + 1) * held_out + self.fold_arms * sum(corpora) + read_by_base

    def with_further_test_rows(self, rows: int) -> "Workload":
        """Return the work with further rows to score, taken for as long as the test rows."""
        # They are ranked among themselves.
        tokens_per_row = self.tokens["test"] / max(self.rows["test"], 1)
        return replace(
            self, further_test_rows=rows, further_test_tokens=round(rows * tokens_per_row)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return plain_values(self, "epochs", "fold_steps")


def count_work(
    settings: Settings,
    training: TrainingConfig,
    prepared: PreparedRows,
    corpus: pd.DataFrame,
    validation_corpus: pd.DataFrame,
    *,
    base_remembers: bool,
    mines: bool = False,
) -> Workload:
    """Return what a run on prepared rows computes.

    Args:
        settings: All that can be set.
        training: The settings of the training, without `auto`.
        prepared: The rows.
        corpus: The rows that held-out rows are ranked against.
        validation_corpus: The same for a validation.
        base_remembers: Whether the base model reads a text once for all folds.
        mines: Whether the negatives of the train rows are mined.
    """
    split = prepared.split
    sides = {"train": prepared.train, "validation": split.validation, "test": split.test}
    tokens = {side: tokens_of(rows) for side, rows in sides.items()}
    batches = batches_per_epoch(prepared, training)
    steps_per_epoch = steps_of_epoch(batches, training)
    steps = steps_of_training(batches, training)

    folds, all_folds, note = _count_folds(settings, training, prepared, tokens_of(corpus))
    minings, reminings = 0.0, 0
    if mines:
        minings = 1.0 + sum(fold.train_share for fold in folds)
        interval = settings.feature_engineering.hard_negatives.remine_every_epochs
        reminings = (math.ceil(steps / steps_per_epoch) - 1) // interval if interval else 0
    return Workload(
        rows={side: len(rows) for side, rows in sides.items()},
        tokens=tokens,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        validations=count_validations(training, steps_per_epoch, steps),
        validation_tokens=tokens["validation"] + tokens_of(validation_corpus),
        test_tokens=tokens["test"] + tokens_of(corpus),
        folds=folds,
        all_folds=all_folds,
        fold_arms=2 if settings.augmentation.methods else 1,
        fold_note=note,
        base_remembers=base_remembers,
        minings=minings,
        reminings=reminings,
    )


def count_validations(training: TrainingConfig, steps_per_epoch: int, steps: int) -> int:
    """Return how often a training validates; its last step is always validated."""
    interval = max(min(steps_per_epoch, steps) // training.validations_per_epoch, 1)
    whole_epochs, further_steps = divmod(steps, steps_per_epoch)

    # The count begins again with each epoch.
    validations = whole_epochs * (steps_per_epoch // interval) + further_steps // interval
    is_last_validated = (further_steps or steps_per_epoch) % interval == 0
    return validations + int(not is_last_validated)


def tokens_of(rows: pd.DataFrame) -> int:
    """Return the tokens of rows as the preparation has counted them.

    Documents of a file haven't been counted; they are taken for as long as the rows.
    """
    if rows.empty or "token_count" not in rows:
        return 0
    counts = rows["token_count"].astype("float64")
    return int(counts.fillna(counts.mean()).sum())


def _count_folds(
    settings: Settings, training: TrainingConfig, prepared: PreparedRows, corpus_tokens: int
) -> tuple[list[FoldWork], int, str | None]:
    """Return the folds that are trained, the number of all, and why they are fewer."""
    config, train = settings.cross_validation, prepared.split.train
    if config.n_splits == 0:
        return [], 0, None

    by_time = prepared.split.method == "time"
    all_folds = make_folds(train, config.n_splits, settings.seed, by_time=by_time)
    choice = affordable_folds(all_folds, prepared, training, config)

    batches = batches_per_epoch(prepared, training)
    folds = []
    for fold in choice.folds:
        share = len(fold.train) / len(train)
        folds.append(
            FoldWork(
                steps=steps_of_training(batches * share, training, config.budget),
                held_out_tokens=tokens_of(fold.validation),
                corpus_tokens=math.ceil(corpus_tokens * share),
                train_share=share,
            )
        )
    return folds, len(all_folds), choice.note
