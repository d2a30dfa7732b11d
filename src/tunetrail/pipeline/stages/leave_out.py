"""Leave out: takes rows whose twins root has learnt from out of the test split.

The sides of one session share no twins, but root has learnt from earlier sessions as well, whose
rows had their own sides. On such rows root remembers what a candidate has to know.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import BASE
from tunetrail.data.rows import rows_of_shapes
from tunetrail.data.splits import Split
from tunetrail.errors import SampleError
from tunetrail.pipeline.lineage import Lineage, RowIds
from tunetrail.pipeline.preparing import build_preparation
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.prepare import PreparedRows
from tunetrail.pipeline.version_to_beat import version_to_beat

logger = logging.getLogger(__name__)

# Learnt rows that test rows are compared with, the newest: more would take longer than 2 min.
_MOST_ROWS = 1_000_000


def leave_out_learnt(context: StageContext, prepared: PreparedRows) -> PreparedRows:
    """Return the rows without test rows that have a twin among rows that root has learnt from.

    The rows of the version that the candidate starts from count as well, if it isn't root. Nothing
    is left out if nothing is known of these rows: before the first promotion, without a database,
    or if an older ledger didn't keep them, which a warning says.

    Validation rows stay: all steps that the validation compares began with the same version, so
    that none knows their twins better than the others except by having forgotten less.

    Raises:
        SampleError: No test row remains.
    """
    lineage, state = context.history.lineage, context.state
    versions = versions_to_check(context)
    if lineage is None or not versions:
        return prepared

    if state.learnt is None or state.learnt["versions"] != versions:
        _warn_of_unknown_rows(context, lineage, versions)
        learnt = _test_rows_with_twins(context, lineage, prepared, rows_of_root(context, lineage))
        state.learnt = {"versions": versions, "test_rows": learnt}
        state.save()
        if learnt:
            logger.warning(
                "%s: %d of %d test rows are left out: version %s has learnt from near-duplicates",
                context.model_type,
                len(learnt),
                len(prepared.split.test),
                " or ".join(versions),
            )

    split = prepared.split
    is_learnt = split.test["row_id"].isin(state.learnt["test_rows"])
    if is_learnt.all():
        raise SampleError(
            f"test rows must differ from what version {' or '.join(versions)} has learnt from, got "
            f"{len(is_learnt)} rows with near-duplicates in earlier sessions. Collect new samples."
        )
    test = split.test[~is_learnt].reset_index(drop=True)
    return replace(prepared, split=replace(split, test=test), left_out=int(is_learnt.sum()))


def _warn_of_unknown_rows(context: StageContext, lineage: Lineage, versions: list[str]) -> None:
    """Log a warning if the ledger doesn't say what a version or its ancestors have learnt from.

    A version is recorded with what is known of its ancestors, so one of them may be unknown
    although it is known itself.
    """
    chains = [[version, *context.registry.ancestors(version)] for version in versions]
    unknown = lineage.unknown_versions(dict.fromkeys(chain.from_iterable(chains)))
    if unknown:
        logger.warning(
            "%s: what version %s has learnt from isn't in the ledger, which didn't keep it then: "
            "test rows with near-duplicates among it aren't left out. With %s.start_from=base, a "
            "new version learns only from rows that are known.",
            context.model_type,
            " and ".join(unknown),
            context.model_type,
        )


def learnt_row_ids(context: StageContext, prepared: PreparedRows, started_from: str) -> RowIds:
    """Return the samples that a candidate has learnt from, its ancestors included."""
    sides = [frame["row_id"].to_numpy(np.int64) for frame in prepared.learnt]
    if context.history.lineage is not None and started_from != BASE:
        sides.append(context.history.lineage.row_ids([_version_of_uri(started_from)]))
    return np.unique(np.concatenate(sides))


def rows_of_both(context: StageContext, lineage: Lineage, prepared: PreparedRows) -> RowIds:
    """Return the samples that the candidate, the version to beat or their ancestors learn from."""
    own_rows = learnt_row_ids(context, prepared, BASE)
    return np.union1d(own_rows, rows_of_root(context, lineage))


def rows_of_root(context: StageContext, lineage: Lineage) -> RowIds:
    """Return the samples that the version to beat and the one to start from have learnt from."""
    return lineage.row_ids(versions_to_check(context))


def versions_to_check(context: StageContext) -> list[str]:
    """Return the versions to compare with and to start from, each once."""
    to_beat, started_from = version_to_beat(context), context.state.started_from
    versions = [] if to_beat is None else [to_beat.version]
    if started_from is not None and started_from != BASE:
        versions.append(_version_of_uri(started_from))
    return list(dict.fromkeys(versions))


def _version_of_uri(uri: str) -> str:
    """Return the version of `models:/name/version`."""
    return uri.rpartition("/")[2]


def _test_rows_with_twins(
    context: StageContext, lineage: Lineage, prepared: PreparedRows, learnt: RowIds
) -> list[int]:
    """Return the test rows that were learnt, or that have a twin that was."""
    split = prepared.split
    test_ids = split.test["row_id"].to_numpy(np.int64)
    # A session that is trained on again has compared its own sides already.
    earlier_rows = np.setdiff1d(learnt, _row_ids(split))
    # The side of a cluster may have changed: new rows that joined it are twins of the learnt ones.
    clusters = split.test["cluster"]
    is_joined = clusters.isin(clusters[np.isin(test_ids, learnt)]).to_numpy(bool)
    has_twin = is_joined | have_twins(context, lineage, split.test, earlier_rows)
    return sorted(map(int, test_ids[has_twin]))


def have_twins(
    context: StageContext, lineage: Lineage, rows: pd.DataFrame, learnt: RowIds
) -> npt.NDArray[np.bool_]:
    """Tell which rows have a twin among samples that a model has learnt from, [rows].

    Args:
        context: The run.
        lineage: Reads the samples.
        rows: Prepared rows.
        learnt: The ids of the samples, of which the newest million count.
    """
    if not len(learnt):
        return np.zeros(len(rows), dtype=bool)
    if len(learnt) > _MOST_ROWS:
        logger.warning(
            "%s: test rows are compared with the newest %d of %d rows that were learnt from",
            context.model_type,
            _MOST_ROWS,
            len(learnt),
        )
        learnt = learnt[-_MOST_ROWS:]

    family, settings = context.family, context.settings
    preparation = build_preparation(family, settings, context.base.path, context.models)
    shapes = family.chosen_shapes(settings)
    sessions = _session_streams(lineage.sessions(learnt), shapes, learnt)
    return preparation.have_twins(rows, sessions, learnt, context.state.folder)


def _row_ids(split: Split) -> RowIds:
    sides = (split.train, split.validation, split.test)
    return np.concatenate([side["row_id"].to_numpy(np.int64) for side in sides])


def _session_streams(
    sessions: Iterable[Iterable[pd.DataFrame]], shapes: tuple[str, ...], row_ids: RowIds
) -> Iterator[Iterable[pd.DataFrame]]:
    """Yield the rows of each session that a preparation takes, then its rows of other shapes.

    In this way a session is cut into the chunks of its own preparation, which are in the cache.
    """
    for frames in sessions:
        of_other_shapes: list[pd.DataFrame] = []
        yield _take_chosen(frames, shapes, row_ids, of_other_shapes)
        if of_other_shapes:
            yield of_other_shapes


def _take_chosen(
    frames: Iterable[pd.DataFrame],
    shapes: tuple[str, ...],
    row_ids: RowIds,
    of_other_shapes: list[pd.DataFrame],
) -> Iterator[pd.DataFrame]:
    """Yield the rows of some shapes, of all if none is named; collect other rows that count."""
    for frame in frames:
        if shapes:
            is_other = ~frame["shape"].isin(shapes) & frame["row_id"].isin(row_ids)
            if is_other.any():
                of_other_shapes.append(frame[is_other].reset_index(drop=True))
            frame = rows_of_shapes(frame, shapes)
        yield frame
