"""Cross-validate: trains and scores every fold as a job with an MLflow run of its own."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunetrail.data.splits import Fold, make_folds
from tunetrail.evaluation import cross_validation
from tunetrail.evaluation.augmentation_effect import WORSENS, augmentation_effect
from tunetrail.evaluation.cross_validation import CrossValidationResult
from tunetrail.evaluation.scores import Scores
from tunetrail.pipeline.additional_shapes import without_twins
from tunetrail.pipeline.jobs import (
    SCORES,
    JobRows,
    TrainingJob,
    is_written,
    run_fold_job,
)
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.pipeline.train_rows import TrainRowBuilder
from tunetrail.pipeline.training_start import auto_values

logger = logging.getLogger(__name__)

_NOT_AUGMENTED = "-not-augmented"


def cross_validate(
    context: StageContext, builder: TrainRowBuilder, prepared: PreparedRows
) -> CrossValidationResult | None:
    """Train and score each fold of the train side from the base model.

    Root may have learned from these very rows.

    The values that were found for `auto` count for all folds. If rows are added by augmentation,
    the folds are trained without them too, to tell whether the added rows help. Folds that an
    interrupted run had finished are not trained again.

    Returns:
        The result with augmentation; None if cross-validation is off.
    """
    if "cross_validation" not in context.state.steps:
        _train_folds(context, builder, prepared)
    builder.release_models()

    step = context.state.steps["cross_validation"]
    # A step without a metric is the note that cross-validation is off.
    if "metric" not in step:
        return None
    return CrossValidationResult(
        metric=step["metric"],
        folds=tuple(step["folds"]),
        mean=step["mean"],
        standard_deviation=step["standard_deviation"],
        fold_metrics=tuple(step["fold_metrics"]),
    )


def _train_folds(context: StageContext, builder: TrainRowBuilder, prepared: PreparedRows) -> None:
    """Train all folds, and finish the step."""
    settings = context.settings
    config = settings.cross_validation
    if config.n_splits == 0:
        note = "off: cross_validation.n_splits is 0"
        context.finish_step("cross_validation", {"folds": [], "note": note})
        return

    by_time = prepared.split.method == "time"
    folds = make_folds(prepared.split.train, config.n_splits, settings.seed, by_time=by_time)
    is_augmented = bool(settings.augmentation.methods)
    _write_jobs(context, builder, prepared, folds, ["", _NOT_AUGMENTED] if is_augmented else [""])

    result = _run_jobs(context, folds)
    step: dict[str, Any] = {**result.to_dict(), "budget": config.budget}
    if is_augmented:
        without = _run_jobs(context, folds, _NOT_AUGMENTED)
        effect = augmentation_effect(without, result, confidence=settings.evaluation.confidence)
        step["augmentation_effect"] = effect.to_dict()
        level = logging.WARNING if effect.verdict == WORSENS else logging.INFO
        logger.log(level, "%s: %s", context.model_type, effect.sentence)

    metrics = {
        f"{result.metric}_mean": result.mean,
        f"{result.metric}_standard_deviation": result.standard_deviation,
    }
    context.finish_step("cross_validation", step, metrics)


def _write_jobs(
    context: StageContext,
    builder: TrainRowBuilder,
    prepared: PreparedRows,
    folds: Sequence[Fold],
    arms: Sequence[str],
) -> None:
    """Write the jobs of all folds to their folders, unless they are there.

    The rows of all folds come first: the models that write and mine rows are loaded once, and let
    go before the first training.
    """
    similarity = context.settings.split.near_duplicate_similarity
    new_folders: list[Path] = []
    for fold in folds:
        folders = {arm: _folder(context, fold, arm) for arm in arms}
        if all(map(is_written, folders.values())):
            continue

        # Free of twins of what the run holds out, but a fold holds out rows of the train side.
        additional = prepared.additional
        if additional is not None:
            additional = without_twins(additional, fold.validation, similarity)
        for arm, folder in folders.items():
            # Augmented from the fold's own rows: one made from a held-out row would leak it.
            rows = fold.train if arm == _NOT_AUGMENTED else builder.augment(fold.train).rows
            JobRows(
                train=builder.mine(rows)[0],
                validation=fold.validation,
                additional=additional,
                before_mining=rows if builder.are_mined_again(rows) else None,
                corpus=context.family.corpus_rows(context.settings, fold.train),
            ).write(folder)
            new_folders.append(folder)

    builder.release_models()
    job = TrainingJob(
        model_type=context.model_type,
        shape=prepared.shape,
        settings=context.settings,
        start=context.base.path,
        auto_values=auto_values(context, prepared),
        budget=context.settings.cross_validation.budget,
    )
    # Last, because job.json says that a folder is complete: after a kill before this loop,
    # the rows of these folds are made again.
    for folder in new_folders:
        job.write(folder)


def _run_jobs(context: StageContext, folds: Sequence[Fold], arm: str = "") -> CrossValidationResult:
    """Run the jobs of the folds that aren't finished, each in a run below the model type's."""
    tracker = context.run.tracker
    earlier_runs = tracker.children(context.run.run_id) if context.run.resumed else []
    # An earlier attempt of this run left a child run per fold, named like its folder.
    run_by_name = {run.info.run_name: run.info for run in earlier_runs}

    def train_and_score(fold: Fold) -> Scores:
        folder = _folder(context, fold, arm)
        earlier = run_by_name.get(folder.name)
        # Both: a kill between the scores and the end of the run leaves the run without metrics.
        if earlier and earlier.status == "FINISHED" and (folder / SCORES).exists():
            return run_fold_job(folder)

        logger.info("%s: cross-validation, %s of %d", context.model_type, folder.name, len(folds))
        if earlier:
            run = tracker.run(earlier.run_id)
            run.reopen()
        else:
            run = context.run.child(folder.name, {"tunetrail.fold": str(fold.number + 1)})

        with run.finish_on_exit():
            scores = run_fold_job(folder, run.log_metrics)
            figures = {**scores.metrics, **scores.row_counts}
            values = {f"cross_validation/{name}": value for name, value in figures.items()}
            run.log_metrics(values)
        return scores

    return cross_validation.cross_validate(folds, train_and_score)


def _folder(context: StageContext, fold: Fold, arm: str) -> Path:
    return context.state.folder / f"fold-{fold.number + 1}{arm}"
