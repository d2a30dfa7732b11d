"""Cross-validation of one run: every fold trained and scored in a run of its own, with added rows and without."""

import logging
from collections.abc import Sequence
from typing import Any

from tunetrail.config import Settings
from tunetrail.data.rows import records_of
from tunetrail.data.splits import Fold, Split, make_folds
from tunetrail.evaluation.augmentation_effect import WORSENS, augmentation_effect
from tunetrail.evaluation.cross_validation import CrossValidationResult, cross_validate
from tunetrail.evaluation.scores import Scores
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.pipeline.train_rows import TrainRows
from tunetrail.pipeline.work import Work

logger = logging.getLogger(__name__)


def cross_validate_split(
    work: Work,
    split: Split,
    train_rows: TrainRows,
    settings: Settings,
    found: AutoValues | None = None,
) -> None:
    """Train and score once per fold of the train side, from the base model: root may have learnt from these very rows.

    What was `found` in the place of `auto` counts for all folds. Where rows are added by augmentation, the folds are
    trained without them too, and whether they help is said.
    """
    config = settings.cross_validation
    if config.n_splits == 0:
        work.finish_step(
            "cross_validation", {"folds": [], "note": "off: cross_validation.n_splits is 0"}
        )
        return
    folds = make_folds(split.train, config.n_splits, settings.seed, by_time=split.method == "time")
    found = found or AutoValues()
    result = _trained_folds(work, folds, train_rows, settings, found, augmented=True)
    step: dict[str, Any] = {**result.to_dict(), "budget": config.budget}
    if settings.augmentation.methods:
        without = _trained_folds(work, folds, train_rows, settings, found, augmented=False)
        effect = augmentation_effect(without, result, confidence=settings.evaluation.confidence)
        step["augmentation_effect"] = effect.to_dict()
        log = logger.warning if effect.verdict == WORSENS else logger.info
        log("%s: %s", work.model_type, effect.sentence)
    work.finish_step(
        "cross_validation",
        step,
        {
            f"{result.metric}_mean": result.mean,
            f"{result.metric}_standard_deviation": result.standard_deviation,
        },
    )


def _trained_folds(
    work: Work,
    folds: Sequence[Fold],
    train_rows: TrainRows,
    settings: Settings,
    found: AutoValues,
    *,
    augmented: bool,
) -> CrossValidationResult:
    training = found.applied_to(work.family.section(settings).training)

    def train_and_score(fold: Fold) -> Scores:
        name = f"fold-{fold.number + 1}{'' if augmented else '-not-augmented'}"
        logger.info("%s: cross-validation, %s of %d", work.model_type, name, len(folds))
        run = work.run.child(name, {"tunetrail.fold": str(fold.number + 1)})
        with run.ending():
            rows = train_rows.augmented(fold.train).rows if augmented else fold.train
            train = train_rows.records(train_rows.mined(rows)[0], fold.validation)
            model, _ = work.learner.train(
                work.base.path,
                train,
                [],
                training,
                TrainingPlan(
                    folder=work.folder / name,
                    on_metrics=run.log_metrics,
                    validate=False,
                    refresh=train_rows.refresh(rows),
                    auto_values=found,
                    budget=settings.cross_validation.budget,
                ),
            )
            held_out = work.family.scorable_rows(settings, work.learner, [model], fold.validation)
            records = records_of(held_out)
            scores = work.family.score(work.learner, model, records, settings.evaluation)
            run.log_metrics(
                {f"cross_validation/{metric}": value for metric, value in scores.metrics.items()}
            )
            return scores

    return cross_validate(folds, train_and_score)
