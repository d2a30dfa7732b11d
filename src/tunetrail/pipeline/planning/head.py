"""Head of a training: its work in a line, and the clock that follows it."""

import logging
from dataclasses import replace

from tunetrail.config import AUTO, TrainingConfig
from tunetrail.pipeline.fold_costs import SCORING_COST
from tunetrail.pipeline.planning.workload import Workload, count_work
from tunetrail.pipeline.run_clock import CROSS_VALIDATION, EVALUATION, TRAINING, RunClock
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.reporting.readable import counted

logger = logging.getLogger(__name__)


def start_clock(context: StageContext, prepared: PreparedRows, *, evaluates: bool) -> RunClock:
    """Log what a run computes, and return the clock that tells how long it takes.

    Args:
        context: The run.
        prepared: Its rows.
        evaluates: Whether the run goes on to the evaluation.
    """
    split, family = prepared.split, context.family
    work = count_work(
        context.settings,
        _counted_training(context.config.training),
        prepared,
        context.corpus_rows(split.train, split.validation),
        family.validation_corpus(context.settings, split.train, split.validation),
        base_remembers=family.remembering is not None,
    )
    logger.info("%s: %s", family.name, work_in_words(work))

    stages = steps_by_stage(work)
    if not evaluates:
        del stages[EVALUATION]
    if "cross_validation" in context.state.steps:
        del stages[CROSS_VALIDATION]
    return RunClock(name=family.name, stages=stages)


def work_in_words(work: Workload) -> str:
    """Return the rows and the steps of a run in a line."""
    rows = ", ".join(f"{side} {count:,}" for side, count in work.rows.items())
    parts = [
        f"rows: {rows}",
        f"{counted(work.steps, 'step')}, {counted(work.validations, 'validation')}",
    ]
    if work.folds:
        parts.append(
            f"before them {len(work.folds)} of {work.all_folds} folds with "
            f"{counted(work.fold_steps, 'step')}"
        )
    return "; ".join(parts)


def _counted_training(training: TrainingConfig) -> TrainingConfig:
    """Return the training with a batch size by which its steps can be counted."""
    if training.batch_size != AUTO:
        return training
    # Whatever is found for `auto`, a step has this many rows.
    batches = replace(training.batches, accumulate=1)
    return replace(training, batch_size=batches.effective_size, batches=batches)


def steps_by_stage(work: Workload) -> dict[str, float]:
    """Return how many steps of the training each stage takes as long as.

    A token that is scored takes a third of one that is learnt, see `SCORING_COST`.
    """
    scored = SCORING_COST / max(work.tokens_per_step, 1.0)
    return {
        CROSS_VALIDATION: work.fold_steps + scored * work.fold_tokens,
        TRAINING: work.steps + scored * work.validations * work.validation_tokens,
        EVALUATION: 2.0 * scored * work.test_tokens,
    }
