"""Evaluate: scores the candidate and the version to beat on the test rows, and compares them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from tunetrail.config import BASE
from tunetrail.data.privacy.scrubber import Scrubber
from tunetrail.data.rows import content_digest, records_of, texts_of_rows
from tunetrail.deployment.gate import ModelCosts
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.evaluation.answers import answer_summary, mask_answers
from tunetrail.evaluation.comparison import Comparison, compare
from tunetrail.evaluation.decision_text import evidence_in_words
from tunetrail.evaluation.fold_gain import OutOfFold
from tunetrail.evaluation.intervals import figures_with_bounds, metric_intervals, metric_table
from tunetrail.evaluation.language_scores import with_reward_accuracy
from tunetrail.evaluation.looks import are_new
from tunetrail.evaluation.own_figure import own_figure
from tunetrail.evaluation.plots import comparison_figure
from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.share_intervals import Interval
from tunetrail.evaluation.significance import bonferroni_confidence
from tunetrail.evaluation.slice_changes import SliceChange
from tunetrail.fingerprints import value_fingerprint
from tunetrail.pipeline.answers import TABLE, answer_table
from tunetrail.pipeline.corpus_file import warn_of_foreign_corpus
from tunetrail.pipeline.costly_tokens import costly_tokens
from tunetrail.pipeline.error_analysis import log_error_analysis
from tunetrail.pipeline.example_rows import log_example_rows
from tunetrail.pipeline.model_costs import measure_costs
from tunetrail.pipeline.scoring import log_row_counts
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.earlier_sessions import (
    compare_on_earlier_sessions,
    compare_on_own_sessions,
)
from tunetrail.pipeline.stages.fit import FittedModel
from tunetrail.pipeline.stages.general_set import compare_on_general_set
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.pipeline.version_to_beat import version_to_beat
from tunetrail.reporting.charts import png
from tunetrail.reporting.readable import counted
from tunetrail.stores.tracking.run_tags import FAMILY_TAG, TEST_ROWS_TAG

logger = logging.getLogger(__name__)

# Of a digest that people compare by eye.
_DIGEST_CHARACTERS = 8


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The comparison of the candidate with the version to beat.

    Attributes:
        comparison: The test scores of both, compared.
        sessions: The same on the test rows of each session, if there are several.
        earlier_sessions: The same on the test rows of each earlier session.
        general_set: The same on the rows of the general file, by its name.
        losing_slices: The slices of the test rows on which the candidate has surely lost.
        costs: What the candidate costs, as far as the gate has limits.
        version_to_beat: The version; None for the base model.
    """

    comparison: Comparison
    sessions: Mapping[str, Comparison]
    earlier_sessions: Mapping[str, Comparison]
    general_set: Mapping[str, Comparison]
    losing_slices: Sequence[SliceChange]
    costs: ModelCosts
    version_to_beat: ModelVersion | None


def evaluate(
    context: StageContext,
    prepared: PreparedRows,
    fitted: FittedModel,
    out_of_fold: OutOfFold | None = None,
) -> Evaluation:
    """Compare the candidate with root, or with the base model before there is a root.

    A comparison of an interrupted run is made again if root has moved since.

    Args:
        context: The run.
        prepared: The rows.
        fitted: The candidate.
        out_of_fold: Scores of the folds' held-out rows, kept with the scores of the test rows.
    """
    state = context.state
    to_beat = version_to_beat(context)
    # A finished comparison counts only for the version that it was made with.
    if "comparison" not in state.steps or state.compared_with != to_beat:
        if "comparison" in state.steps:
            logger.warning(
                "%s: root has moved since the candidate was compared; compared again, with %s",
                context.model_type,
                to_beat.uri if to_beat else BASE,
            )
        _compare(context, prepared, fitted, to_beat, out_of_fold)

    step = state.steps["comparison"]
    return Evaluation(
        comparison=Comparison.from_dict(step),
        sessions=_comparisons(step, "sessions"),
        earlier_sessions=_comparisons(step, "earlier_sessions"),
        general_set=_comparisons(step, "general_set"),
        losing_slices=[
            SliceChange.from_dict(change)
            for change in step.get("error_analysis", {}).get("losing_slices", ())
        ],
        costs=ModelCosts.from_dict(step.get("costs", {})),
        version_to_beat=to_beat,
    )


def _comparisons(step: Mapping[str, Any], name: str) -> dict[str, Comparison]:
    """Return the comparisons of a benchmark; steps of older runs have none."""
    comparisons = step.get(name, {})
    return dict(zip(comparisons, map(Comparison.from_dict, comparisons.values()), strict=True))


def _compare(
    context: StageContext,
    prepared: PreparedRows,
    fitted: FittedModel,
    to_beat: ModelVersion | None,
    out_of_fold: OutOfFold | None,
) -> None:
    """Score both models on the test rows, compare the scores, and finish both steps."""
    family, test_rows = context.family, prepared.split.test
    counted_rows = counted(len(test_rows), "test row")
    logger.info("%s: evaluation on %s", context.model_type, counted_rows)
    if to_beat is None:
        against, reference = BASE, context.base_model()
    else:
        against, reference = to_beat.uri, context.registry.load(to_beat)

    models = (fitted.model, reference)
    learner = family.comparing_learner(fitted.learner, models, test_rows)
    scorable = family.scorable_rows(context.settings, learner, models, test_rows)
    test = records_of(scorable)
    # The candidate's vectors of the test queries are needed again for the map and its clusters.
    candidate_learner = family.remembering(learner) if family.remembering else learner
    learners = (candidate_learner, learner)
    after, before = _score_both(context, prepared, learners, models, test, to_beat)
    digest = _tag_test_rows(context, prepared, scorable)
    after, before = _with_answers(context, fitted, models, test, (after, before))
    _finish_evaluation(context, prepared, test, after, before, against)

    comparison = _compare_scores(context, prepared, before, after)
    vectors = partial(family.row_vectors, candidate_learner, fitted.model)
    # Models that give no vectors of texts have no map of them.
    reference_vectors = partial(family.row_vectors, learner, reference) if family.encode else None
    example_rows = log_example_rows(
        context,
        prepared.split,
        vectors,
        reference_vectors,
        after=after,
        before=before,
        against=against,
        out_of_fold=out_of_fold,
    )
    tokens = costly_tokens(context, learner, models, test, (after, before))
    errors = log_error_analysis(context, prepared.split, example_rows, tokens)

    # Saved together with the step: a comparison counts for this version only.
    context.state.compared_with = to_beat
    by_session = compare_on_own_sessions(context, prepared, before, after)
    earlier = compare_on_earlier_sessions(context, prepared, fitted, reference)
    general = compare_on_general_set(context, prepared, fitted, reference)
    step = {
        **comparison.to_dict(),
        "evidence": evidence_in_words(comparison),
        "against": against,
        "test_rows": digest,
        "error_analysis": errors,
        "sessions": {session: change.to_dict() for session, change in by_session.items()},
        "earlier_sessions": {session: change.to_dict() for session, change in earlier.items()},
        "general_set": {name: change.to_dict() for name, change in general.items()},
        "costs": measure_costs(context, fitted, reference, scorable).to_dict(),
        "root_figure": _log_own_figure(context, prepared, before, to_beat),
    }
    context.finish_step("comparison", step, comparison.figures)


def _score_both(
    context: StageContext,
    prepared: PreparedRows,
    learners: tuple[Any, Any],
    models: tuple[Any, Any],
    test: Sequence[Mapping[str, Any]],
    to_beat: ModelVersion | None,
) -> tuple[Scores, Scores]:
    """Return the scores of the candidate, then of the version to beat, on the test records."""
    family, split, settings = context.family, prepared.split, context.settings
    corpus = records_of(context.corpus_rows(split.train, split.validation))
    (candidate_learner, learner), (candidate, reference) = learners, models
    after = family.gate_scores(settings, candidate_learner, candidate, test, corpus)

    known = context.reference_scores
    # Root may have moved since its scores were computed.
    if known is not None and known.version == to_beat:
        before = known.scores
    else:
        before = family.gate_scores(settings, learner, reference, test, corpus)

    after, before = with_reward_accuracy(after, before)
    side_rows = len(split.test) + prepared.left_out
    after, before = after.of_side(side_rows), before.of_side(side_rows)
    log_row_counts(context.model_type, after)
    return after, before


def _tag_test_rows(context: StageContext, prepared: PreparedRows, test: pd.DataFrame) -> str:
    """Tag the run with a digest of what it is scored on, the test rows and what these rank.

    Runs with equal digests can be compared; MLflow's tables show the tag as a column. A warning
    says if the model's run before has another digest.
    """
    corpus = context.corpus_rows(prepared.split.train, prepared.split.validation)
    digest = value_fingerprint([content_digest(test), texts_of_rows(corpus)])
    shown = digest[:_DIGEST_CHARACTERS]

    earlier = context.run.tracker.newest_tag(
        TEST_ROWS_TAG, {FAMILY_TAG: context.model_type, "tunetrail.session_id": context.name}
    )
    if earlier not in (None, shown):
        logger.warning(
            "%s: the test rows or the documents that they rank (%s) differ from the ones of the "
            "session's run before (%s): scores of the two can't be compared",
            context.model_type,
            shown,
            earlier,
        )

    context.run.set_tags({TEST_ROWS_TAG: shown})
    return shown


def _finish_evaluation(
    context: StageContext,
    prepared: PreparedRows,
    test: Sequence[Mapping[str, Any]],
    after: Scores,
    before: Scores,
    against: str,
) -> None:
    """Write the metrics of both models with their intervals, and finish the step."""
    run, settings = context.run, context.settings
    config = settings.evaluation
    right_answers = [row["positive"] for row in test if "positive" in row]
    warn_of_foreign_corpus(right_answers, context.corpus_documents, config)

    # At the configured confidence: looks concern the decision, which rests on one metric.
    intervals_of = partial(
        metric_intervals,
        bootstrap_samples=config.bootstrap_samples,
        confidence=config.confidence,
        seed=settings.seed,
    )
    after_intervals, before_intervals = map(intervals_of, (after, before))
    evaluation = {
        "split": prepared.split.to_dict(),
        "metric": after.metric,
        "candidate": _with_intervals(after, after_intervals),
        "reference": _with_intervals(before, before_intervals),
        "against": against,
        "left_out_rows": prepared.left_out,
    }
    metrics = {
        **figures_with_bounds(after, after_intervals),
        **after.counts,
        "left_out_rows": prepared.left_out,
    }

    answers = answer_summary(before, after, before_intervals, after_intervals, config.confidence)
    if answers is not None:
        evaluation["generation"] = answers
        metrics["answers"] = answers["answers"]
        mask = Scrubber(settings.cleaning.privacy).mask
        run.log_table(answer_table(test, before, after, mask), TABLE)
    context.finish_step("evaluation", evaluation, metrics)

    figures = figures_with_bounds(before, before_intervals)
    run.log_metrics({f"reference/{name}": value for name, value in figures.items()})
    both = {"candidate": (after, after_intervals), "reference": (before, before_intervals)}
    run.log_text(metric_table(both).to_csv(index=False), "evaluation/metrics.csv")


def _compare_scores(
    context: StageContext, prepared: PreparedRows, before: Scores, after: Scores
) -> Comparison:
    """Return the comparison that the gate decides by, and draw it."""
    config = context.settings.evaluation
    # Each earlier look at these test rows has used up some of the level: Bonferroni's correction.
    look = 1.0 + context.history.count_looks(prepared.test_sketch)
    comparison = compare(
        before,
        after,
        bootstrap_samples=config.bootstrap_samples,
        confidence=bonferroni_confidence(config.confidence, look),
        seed=context.settings.seed,
    )
    comparison = replace(comparison, look=look, left_out_rows=prepared.left_out)

    if comparison.warning is not None:
        logger.warning("%s: %s", context.model_type, comparison.warning)
    context.run.log_picture(png(comparison_figure(comparison)), "comparison.png")
    return comparison


def _with_intervals(scores: Scores, intervals: Mapping[str, Interval]) -> dict[str, Any]:
    """Return scores as plain values, with the bounds of their metrics."""
    bounds = dict(zip(intervals, map(list, intervals.values()), strict=True))
    return {**scores.to_dict(), "intervals": bounds}


def _log_own_figure(
    context: StageContext, prepared: PreparedRows, scores: Scores, root: ModelVersion | None
) -> dict[str, Any] | None:
    """Return root's score on rows that it wasn't chosen by, and write it to run and version.

    Returns:
        The figure as plain values; None for the base model, which no test chose, and for a root of
        which the ledger doesn't know the rows.
    """
    sketch = None if root is None else context.history.read_promotion_rows(root.version)
    if root is None or sketch is None or scores.row_ids is None:
        return None

    # Its own promotion chose root by its test rows, on which it therefore looks too good.
    test = prepared.split.test
    is_new = dict(zip(test["row_id"], are_new(texts_of_rows(test), sketch), strict=True))
    new_rows = [is_new[row_id] for row_id in scores.row_ids]
    figure = own_figure(scores, new_rows, context.settings.gate.minimum_test_clusters)
    context.run.log_metrics({"root_figure/rows": figure.rows})
    if figure.value is not None:
        context.run.log_metrics({f"root_figure/{figure.metric}": figure.value})
        quoted = f"{figure.value:.6f} on {figure.rows} rows"
        context.registry.tag(root, {f"tunetrail.{figure.metric}_after_promotion": quoted})
    return figure.to_dict()


def _with_answers(
    context: StageContext,
    fitted: FittedModel,
    models: Sequence[Any],
    test: Sequence[Mapping[str, Any]],
    scores: Sequence[Scores],
) -> list[Scores]:
    """Return each model's scores with the metrics of what it writes to some of the test rows.

    The rows may be free of personal data, but a model can write what its base has learnt.
    """
    add_answers, config = context.family.add_answers, context.settings.evaluation
    if add_answers is None or config.generation.rows == 0:
        return list(scores)

    logger.info("%s: both models write answers to test rows", context.model_type)
    mask = Scrubber(context.settings.cleaning.privacy).mask
    answered = []
    for model, model_scores in zip(models, scores, strict=True):
        with_answers = add_answers(fitted.learner, model, test, model_scores, config)
        answered.append(mask_answers(with_answers, mask))
    return answered
