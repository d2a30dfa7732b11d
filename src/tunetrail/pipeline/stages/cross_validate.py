"""Cross-validate: trains and scores every fold as a job with an MLflow run of its own."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunetrail.config import AUTO, TrainingConfig
from tunetrail.data.splits import Fold, make_folds
from tunetrail.evaluation import cross_validation
from tunetrail.evaluation.augmentation_effect import WORSENS, augmentation_effect
from tunetrail.evaluation.cross_validation import CrossValidationResult
from tunetrail.evaluation.fold_gain import (
    OutOfFold,
    PairedGain,
    paired_gain,
    pool_folds,
    recipe_key,
    recipe_name,
)
from tunetrail.evaluation.score_files import write_scores
from tunetrail.evaluation.scores import Scores
from tunetrail.pipeline.additional_shapes import without_twins
from tunetrail.pipeline.fold_costs import affordable_folds
from tunetrail.pipeline.jobs import (
    BASE_SCORES,
    SCORES,
    JobRows,
    TrainingJob,
    fold_scores,
    is_written,
    run_fold_job,
    score_held_out_rows,
)
from tunetrail.pipeline.run_clock import CROSS_VALIDATION
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
    context.clock.finish(CROSS_VALIDATION)

    step = context.state.steps["cross_validation"]
    # A step without a metric is the note that cross-validation is off.
    if "metric" not in step:
        return None
    result = CrossValidationResult.from_dict(step)
    return replace(result, out_of_fold=_out_of_fold(context, step.get("fold_numbers", ())))


def _train_folds(context: StageContext, builder: TrainRowBuilder, prepared: PreparedRows) -> None:
    """Train the folds, and finish the step."""
    settings = context.settings
    config = settings.cross_validation
    if config.n_splits == 0:
        note = "off: cross_validation.n_splits is 0"
        context.finish_step("cross_validation", {"folds": [], "note": note})
        return

    by_time = prepared.split.method == "time"
    all_folds = make_folds(prepared.split.train, config.n_splits, settings.seed, by_time=by_time)
    training = _training_without_auto(context, builder, prepared)
    choice = affordable_folds(all_folds, prepared, training, config)
    folds = choice.folds
    if choice.note is not None:
        logger.warning("%s: cross-validation: %s", context.model_type, choice.note)

    is_augmented = bool(settings.augmentation.methods)
    _write_jobs(context, builder, prepared, folds, ["", _NOT_AUGMENTED] if is_augmented else [""])

    result = _run_jobs(context, folds)
    gain = _gain(context, folds, result)
    logger.info("%s: cross-validation, %s", context.model_type, gain.sentence)
    step: dict[str, Any] = {
        **replace(result, gain=gain).to_dict(),
        "recipe": gain.recipe,
        "budget": config.budget,
        "fold_numbers": [fold.number + 1 for fold in folds],
        "note": choice.note,
    }
    if is_augmented:
        without = _run_jobs(context, folds, _NOT_AUGMENTED)
        effect = augmentation_effect(without, result, confidence=settings.evaluation.confidence)
        step["augmentation_effect"] = effect.to_dict()
        level = logging.WARNING if effect.verdict == WORSENS else logging.INFO
        logger.log(level, "%s: %s, %s", context.model_type, gain.recipe, effect.sentence)

    figures = {
        f"{result.metric}_mean": result.mean,
        f"{result.metric}_standard_deviation": result.standard_deviation,
        **gain.figures,
    }
    # The score of another, shorter training than the candidate's: the key says which.
    key = recipe_key(config.budget)
    metrics = {f"{key}/{name}": value for name, value in figures.items()}
    context.finish_step("cross_validation", step, metrics)


def _training_without_auto(
    context: StageContext, builder: TrainRowBuilder, prepared: PreparedRows
) -> TrainingConfig:
    """Return the settings of the training with the batch size that was found if it is `auto`."""
    training = context.config.training
    if training.batch_size == AUTO:
        # The search needs the memory of the models that the next step would use again.
        builder.release_models()
        training = auto_values(context, prepared).applied_to(training)
    return training


def _gain(
    context: StageContext, folds: Sequence[Fold], result: CrossValidationResult
) -> PairedGain:
    """Compare the trained models with the base model on all folds' held-out rows."""
    config = context.settings.evaluation
    folders = [_folder(context, fold.number) for fold in folds]
    assert result.test_ratio is not None
    return paired_gain(
        [fold_scores(folder, BASE_SCORES) for folder in folders],
        list(map(fold_scores, folders)),
        budget=context.settings.cross_validation.budget,
        test_ratio=result.test_ratio,
        bootstrap_samples=config.bootstrap_samples,
        confidence=config.confidence,
        seed=context.settings.seed,
    )


def _out_of_fold(context: StageContext, numbers: Sequence[int]) -> OutOfFold | None:
    """Return the scores of all held-out rows; None if an older version didn't keep them.

    Args:
        context: The run.
        numbers: The numbers of the folds, from 1.
    """
    folders = [_folder(context, number - 1) for number in numbers]
    if not folders:
        return None
    before = [fold_scores(folder, BASE_SCORES) for folder in folders]
    return pool_folds(before, list(map(fold_scores, folders)), numbers)


def _write_jobs(
    context: StageContext,
    builder: TrainRowBuilder,
    prepared: PreparedRows,
    folds: Sequence[Fold],
    arms: Sequence[str],
) -> None:
    """Write the jobs of all folds to their folders, unless they are there.

    The rows and the base model's scores of all folds come first: the models that write, mine and
    score rows are loaded once, and let go before the first training.
    """
    similarity = context.settings.split.near_duplicate_similarity
    new_folders: list[Path] = []
    for fold in folds:
        folders = {arm: _folder(context, fold.number, arm) for arm in arms}
        if all(map(is_written, folders.values())):
            continue

        # Free of twins of what the run holds out, but a fold holds out rows of the train side.
        additional = prepared.additional
        if additional is not None:
            additional = without_twins(additional, fold.validation, similarity)
        for arm, folder in folders.items():
            # Augmented from the fold's own rows: one made from a held-out row would leak it.
            rows = fold.train if arm == _NOT_AUGMENTED else builder.augment(fold.train).rows
            rows = builder.weigh(rows)
            JobRows(
                train=builder.mine(rows)[0],
                validation=fold.validation,
                additional=additional,
                before_mining=rows if builder.are_mined_again(rows) else None,
                corpus=context.corpus_rows(fold.train),
            ).write(folder)
            new_folders.append(folder)

    _score_base_model(context, prepared, folds)
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


def _score_base_model(context: StageContext, prepared: PreparedRows, folds: Sequence[Fold]) -> None:
    """Write the base model's scores of every fold's held-out rows, unless they are there."""
    folders = [_folder(context, fold.number) for fold in folds]
    # All or none: a text's vector may differ in its last digits with the texts of its batch.
    if all((folder / BASE_SCORES).exists() for folder in folders):
        return

    logger.info("%s: base model on the held-out rows of all folds", context.model_type)
    family, learner, model = context.family, context.learner(prepared.shape), context.base_model()
    if family.remembering is not None:
        learner = family.remembering(learner)
    for folder in folders:
        scores = score_held_out_rows(family, context.settings, learner, model, folder)
        write_scores(scores, folder / BASE_SCORES)


def _run_jobs(context: StageContext, folds: Sequence[Fold], arm: str = "") -> CrossValidationResult:
    """Run the jobs of the folds that aren't finished, each in a run below the model type's."""
    config, tracker = context.settings.cross_validation, context.run.tracker
    recipe, key = recipe_name(config.budget), recipe_key(config.budget)
    earlier_runs = tracker.children(context.run.run_id) if context.run.resumed else []
    # An earlier attempt of this run left a child run per fold, named like its folder.
    run_by_name = {run.info.run_name: run.info for run in earlier_runs}

    def train_and_score(fold: Fold) -> Scores:
        """Train and score a fold in a run of its own, unless an earlier attempt has."""
        folder = _folder(context, fold.number, arm)
        earlier = run_by_name.get(folder.name)
        # Both: a kill between the scores and the end of the run leaves the run without metrics.
        if earlier and earlier.status == "FINISHED" and (folder / SCORES).exists():
            return run_fold_job(folder)

        logger.info(
            "%s: cross-validation, %s of %d (%s)",
            context.model_type,
            folder.name,
            config.n_splits,
            recipe,
        )
        if earlier:
            run = tracker.run(earlier.run_id)
            run.reopen()
        else:
            tags = {"tunetrail.fold": str(fold.number + 1), "tunetrail.recipe": recipe}
            run = context.run.child(folder.name, tags)

        with run.finish_on_exit():
            sink = context.clock.following(run.log_metrics, CROSS_VALIDATION)
            scores = run_fold_job(folder, sink, context.clock.in_words)
            figures = {**scores.metrics, **scores.counts}
            base = fold_scores(_folder(context, fold.number), BASE_SCORES)
            figures |= {f"reference_{name}": value for name, value in base.metrics.items()}
            run.log_metrics(
                {f"cross_validation/{key}/{name}": value for name, value in figures.items()}
            )
        return scores

    test_ratio = sum(len(fold.validation) / len(fold.train) for fold in folds) / len(folds)
    return cross_validation.cross_validate(folds, train_and_score, test_ratio=test_ratio)


def _folder(context: StageContext, number: int, arm: str = "") -> Path:
    return context.state.folder / f"fold-{number + 1}{arm}"
