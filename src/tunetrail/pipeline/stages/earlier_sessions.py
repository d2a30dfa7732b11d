"""Earlier sessions: whether a candidate has forgotten what root can do on their test rows."""

import logging
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from tunetrail.data.rows import SESSION_COLUMN, records_of
from tunetrail.errors import SampleError
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.forgetting import compare_by_session
from tunetrail.evaluation.scores import Scores
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.fit import FittedModel
from tunetrail.pipeline.stages.leave_out import have_twins, rows_of_both
from tunetrail.pipeline.stages.prepare import PreparedRows

logger = logging.getLogger(__name__)

BENCHMARK_ROWS = "evaluation/earlier_rows.json"
"""The artifact with the ids of the benchmark's rows."""


def compare_on_earlier_sessions(
    context: StageContext, prepared: PreparedRows, fitted: FittedModel, reference: Any
) -> dict[str, Comparison]:
    """Compare the candidate with the version to beat on the benchmark, session by session.

    Queries are ranked among the documents of the benchmark's rows.

    Args:
        context: The run.
        prepared: The rows; benchmark rows with a twin that was learnt from are left out.
        fitted: The candidate.
        reference: The version to beat, loaded.

    Returns:
        The comparison of each earlier session; nothing if there are no rows that can be scored.
    """
    benchmark, config = context.history.benchmark, context.settings.evaluation
    if benchmark is None or config.benchmark_rows == 0:
        return {}
    all_rows, session_of_row = benchmark.rows(prepared.shape)
    if session_of_row:
        # So that `tunetrail repro` scores these, however the benchmark has grown.
        contents = {"shape": prepared.shape, "row_ids": list(session_of_row)}
        context.run.log_dict(contents, BENCHMARK_ROWS)
    rows = _not_learnt(context, prepared, all_rows)
    if len(rows) < 2:
        return {}

    try:
        after, before = primary_scores(context, fitted, reference, rows)
    except SampleError as error:
        # The rows of other sessions must not end the training of this one.
        logger.warning("%s: earlier sessions can't be scored: %s", context.model_type, error)
        return {}

    left_out = set(session_of_row).difference(rows["row_id"])
    before, after = before.of_side(len(all_rows)), after.of_side(len(all_rows))
    comparisons = _compare_by_session(context, before, after, session_of_row, left_out)
    _log_changes(context, "earlier_sessions", comparisons)
    return comparisons


def compare_on_own_sessions(
    context: StageContext, prepared: PreparedRows, before: Scores, after: Scores
) -> dict[str, Comparison]:
    """Compare the candidate with the version to beat on the test rows of each of several sessions.

    What it gains on one session must not hide what it loses on another.

    Args:
        context: The run.
        prepared: The rows.
        before: Scores of the version to beat on all test rows.
        after: Scores of the candidate on the same rows.

    Returns:
        The comparison of each session; nothing if there is only one.
    """
    if len(context.sessions) == 1:
        return {}
    test = prepared.split.test
    session_of_row = dict(zip(test["row_id"], test[SESSION_COLUMN], strict=True))
    comparisons = _compare_by_session(context, before, after, session_of_row)
    _log_changes(context, "sessions", comparisons)
    return comparisons


def _compare_by_session(
    context: StageContext,
    before: Scores,
    after: Scores,
    session_of_row: Mapping[int, str],
    left_out: Collection[int] = (),
) -> dict[str, Comparison]:
    config = context.settings.evaluation
    return compare_by_session(
        before,
        after,
        session_of_row,
        left_out=left_out,
        bootstrap_samples=config.bootstrap_samples,
        confidence=config.confidence,
        seed=context.settings.seed,
    )


def _log_changes(context: StageContext, group: str, comparisons: Mapping[str, Comparison]) -> None:
    changes = {session: comparison.improvement for session, comparison in comparisons.items()}
    context.run.log_metrics({f"{group}/{session}": change for session, change in changes.items()})


def primary_scores(
    context: StageContext, fitted: FittedModel, reference: Any, rows: pd.DataFrame
) -> tuple[Scores, Scores]:
    """Return the scores of the candidate and of the version to beat, by the primary metric.

    Queries are ranked among the documents of these rows.

    Raises:
        SampleError: A row can't be scored.
    """
    family, settings, models = context.family, context.settings, (fitted.model, reference)
    learner = family.comparing_learner(fitted.learner, models, rows)
    records = records_of(family.scorable_rows(settings, learner, models, rows))
    after, before = (
        family.gate_scores(settings, learner, model, records, [], only_primary=True)
        for model in models
    )
    return after, before


def keep_in_benchmark(context: StageContext, prepared: PreparedRows) -> None:
    """Add the test rows to the benchmark, for the candidates of later sessions."""
    limit = context.settings.evaluation.benchmark_rows
    if context.history.benchmark is not None and limit:
        context.history.benchmark.extend(prepared.split.test, limit)


def _not_learnt(context: StageContext, prepared: PreparedRows, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that neither candidate nor root has learnt from, nor from a twin."""
    lineage = context.history.lineage
    if rows.empty or lineage is None:
        return rows
    learnt = rows_of_both(context, lineage, prepared)
    # A row that was held out at first may be on the train side of a session that has grown.
    is_learnt = rows["row_id"].isin(learnt) | have_twins(context, lineage, rows, learnt)
    return rows[~is_learnt].reset_index(drop=True)
