"""The general set: whether a candidate has lost what no session of its own tests.

Its rows come from a file and stay the same, so that a slow loss over many sessions shows as well.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.config.checks import check
from tunetrail.data.rows import records_of
from tunetrail.errors import ConfigError, SampleError
from tunetrail.evaluation.comparison import Comparison, compare
from tunetrail.pipeline.additional_shapes import without_twins
from tunetrail.pipeline.general_file import GENERAL_FILE, GeneralFile
from tunetrail.pipeline.run_state import SavedRunState
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.earlier_sessions import primary_scores
from tunetrail.pipeline.stages.fit import FittedModel
from tunetrail.pipeline.stages.leave_out import have_twins, rows_of_both, versions_to_check
from tunetrail.pipeline.stages.prepare import PreparedRows

logger = logging.getLogger(__name__)

# Rows below which nothing can be ranked.
_LEAST_ROWS = 2


def check_same_file(general_file: GeneralFile | None, state: SavedRunState) -> None:
    """Raise `ConfigError` if the general file isn't the one with which a run began."""
    if general_file is None or state.general_file is None:
        return
    digest = state.general_file["digest"]
    check(
        general_file.digest == digest,
        GENERAL_FILE,
        f"the file that the run began with (SHA-256 {digest})",
        f"{general_file.name} (SHA-256 {general_file.digest})",
        "Restore the file, or start again with `tunetrail train`.",
    )


def log_general_file(context: StageContext) -> None:
    """Log which general file the run uses, once: scores on another one aren't comparable."""
    general_file, state = context.general_file, context.state
    if general_file is not None and state.general_file is None:
        context.run.log_params({"general_file_sha256": general_file.digest})
        state.general_file = {"digest": general_file.digest, "versions": None, "left_out": []}
        state.save()


def check_general_set(context: StageContext, prepared: PreparedRows) -> None:
    """Check before anything is trained that the general set can be scored.

    Raises:
        ConfigError: Its rows don't fit the session's, the model, or all of them are learnt from.
    """
    if context.general_file is None or "training" in context.state.steps:
        return
    records = records_of(_general_rows(context, context.general_file, prepared))

    monitors, evaluation = context.family.monitors, context.settings.evaluation
    check(
        monitors is None or bool(monitors(prepared.shape, records, [], evaluation)),
        GENERAL_FILE,
        "a file whose rows can tell models apart",
        f"{len(records)} {prepared.shape} rows that any model scores equally on",
        "Add more different rows.",
    )
    try:
        load = partial(context.models.load, context.family)
        context.learner(prepared.shape).check(context.base.path, records, load)
    except (ConfigError, SampleError) as error:
        raise ConfigError(f"{GENERAL_FILE} must hold rows that fit the model: {error}") from error


def compare_on_general_set(
    context: StageContext, prepared: PreparedRows, fitted: FittedModel, reference: Any
) -> Mapping[str, Comparison]:
    """Compare the candidate with the version to beat on the rows of the general file.

    Queries are ranked among the documents of these rows, whatever the session.

    Args:
        context: The run.
        prepared: The rows; general ones with a twin among what was learnt are left out.
        fitted: The candidate.
        reference: The version to beat, loaded.

    Returns:
        The comparison by the name of the file; nothing if there is none.
    """
    if context.general_file is None:
        return {}
    rows = _general_rows(context, context.general_file, prepared)
    assert context.state.general_file is not None
    left_out = len(context.state.general_file["left_out"])

    settings, side_rows = context.settings, len(rows) + left_out
    after, before = primary_scores(context, fitted, reference, rows)
    after, before = after.of_side(side_rows), before.of_side(side_rows)
    comparison = compare(
        before,
        after,
        bootstrap_samples=settings.evaluation.bootstrap_samples,
        confidence=settings.evaluation.confidence,
        seed=settings.seed,
    )
    comparison = replace(comparison, left_out_rows=left_out)
    figures = {**comparison.figures, **after.counts, "left_out_rows": left_out}
    context.run.log_metrics({f"general_set/{name}": value for name, value in figures.items()})
    return {context.general_file.name: comparison}


def _general_rows(
    context: StageContext, general_file: GeneralFile, prepared: PreparedRows
) -> pd.DataFrame:
    """Return the rows to score on: those without a twin among what either model learns from.

    Which rows are left out is decided before the training, and again if root has moved since.
    """
    rows = general_file.general_set(prepared.shape, context.settings)
    state, versions = context.state, versions_to_check(context)
    assert state.general_file is not None

    if state.general_file["versions"] != versions:
        left_out = rows["row_id"][_are_learnt(context, prepared, rows)].tolist()
        state.general_file |= {"versions": versions, "left_out": left_out}
        state.save()
        if left_out:
            logger.warning(
                "%s: %d of %d rows of %s are left out: near-duplicates are learnt from",
                context.model_type,
                len(left_out),
                len(rows),
                general_file.name,
            )

    is_left_out = rows["row_id"].isin(state.general_file["left_out"])
    check(
        int((~is_left_out).sum()) >= _LEAST_ROWS,
        GENERAL_FILE,
        f"a file with at least {_LEAST_ROWS} rows that aren't learnt from",
        f"{len(rows)} rows, {int(is_left_out.sum())} of them with near-duplicates in the training",
        "Add other rows to it.",
    )
    return rows[~is_left_out].reset_index(drop=True)


def _are_learnt(
    context: StageContext, prepared: PreparedRows, rows: pd.DataFrame
) -> "np.ndarray[Any, np.dtype[np.bool_]]":
    """Tell which rows have a twin among what the candidate or root learns from, [rows]."""
    if context.history.lineage is not None:
        learnt = rows_of_both(context, context.history.lineage, prepared)
        return have_twins(context, context.history.lineage, rows, learnt)

    # Without a database, only the training's own rows are known.
    is_learnt = np.zeros(len(rows), dtype=bool)
    similarity = context.settings.split.near_duplicate_similarity
    for learnt_rows in prepared.learnt:
        different = without_twins(rows, learnt_rows, similarity)
        is_learnt |= ~rows["row_id"].isin(different["row_id"]).to_numpy(bool)
    return is_learnt
