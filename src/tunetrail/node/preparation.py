"""Prepares a session's rows for reading, without a training.

It imports neither MLflow nor Lightning, and torch only to compute vectors: those imports take
longer than a small session.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunetrail.collecting import collect
from tunetrail.config import Settings, name_of_sessions
from tunetrail.data.flow.prepared import (
    REPLAYED_SIDE,
    PreparedSession,
    claim_folder,
    side_file,
)
from tunetrail.data.report.session_report import join_sessions
from tunetrail.data.rows import stacked_rows
from tunetrail.errors import ModelError
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.pipeline.families import ALL_FAMILIES, family_named, requested_families
from tunetrail.pipeline.lineage import Lineage
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.model_loader import ModelLoader
from tunetrail.pipeline.preparing import prepare_sessions
from tunetrail.pipeline.requests import check_sessions, checked_request, summaries_of
from tunetrail.pipeline.run_files import write_rows
from tunetrail.pipeline.session_rows import rows_by_session
from tunetrail.scratch import scratch_folder, sweep
from tunetrail.stores.database.ledger import root_line
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.verbosity import saying

if TYPE_CHECKING:
    from tunetrail.pipeline.replay import ReplayedRows

logger = logging.getLogger(__name__)


def prepare_request(
    settings: Settings,
    database: DatabaseManager,
    request: Mapping[str, Any],
    folder: Path,
    verbose: int | None = None,
) -> PreparedSession:
    """Validate, clean and split a session's rows into files; nothing is trained or recorded.

    Args:
        settings: All that can be set.
        database: The database that holds the session.
        request: As for `ModelTrainingNode.prepare`.
        folder: As for `ModelTrainingNode.prepare`.
        verbose: As for `ModelTrainingNode`.

    Raises:
        UserError: The request or the session can't be prepared.
    """
    session_ids, model_type = checked_request(request)
    with saying(verbose):
        for session_id in session_ids:
            collect(database, session_id)
        return prepare_session(settings, database, session_ids, model_type, folder)


def prepare_session(
    settings: Settings,
    database: DatabaseManager,
    session_ids: Sequence[str],
    model_type: str,
    folder: Path,
) -> PreparedSession:
    """Validate, clean and split the rows of sessions into `folder`; record nothing.

    Raises:
        UserError: The session can't be prepared.
    """
    families = _families_with_samples(settings, database, session_ids, model_type)
    claim_folder(folder)
    # A process that was killed has left its rows here.
    sweep(folder)

    # The families write into a scratch folder first: `folder` gets all of them or none.
    models = ModelLoader(settings=settings)
    sessions, max_lengths = {}, {}
    with scratch_folder(".parts-", folder) as scratch:
        for family in families:
            base = _base_model_if_found(settings, family)
            path = base.path if base else None
            rows = rows_by_session(database, session_ids, family, settings)
            own_folder = scratch / family.name
            sessions[family.name] = prepare_sessions(
                family, settings, path, models, rows, own_folder
            )
            models.release(family)
            max_lengths[family.name] = family.section(settings).max_length

        replayed_frames = []
        if settings.replay:
            for name, session in sessions.items():
                if session.stopped is None:
                    replayed = _replay(settings, database, session_ids, name, session)
                    sessions[name] = replace(session, replayed=replayed.counts)
                    replayed_frames.append(replayed.rows)
        joined = join_sessions(sessions, folder, name_of_sessions(session_ids), max_lengths)

    file = side_file(folder, REPLAYED_SIDE)
    file.unlink(missing_ok=True)  # of an earlier preparation
    if replayed_frames:
        write_rows(stacked_rows(replayed_frames), file)
    return joined


def _replay(
    settings: Settings,
    database: DatabaseManager,
    session_ids: Sequence[str],
    model_type: str,
    session: PreparedSession,
) -> "ReplayedRows":
    """Return the rows that a training would replay, by what the ledger says of root."""
    # Only now: it imports what trains models, which takes seconds.
    from tunetrail.pipeline.replay import Replay, earlier_sessions

    family = family_named(model_type)
    tracking, split = settings.tracking, session.split()
    root = root_line(database.ledger_lines(tracking.registered_name(family.name)))
    lineage = Lineage(database=database, family=family, prefix=tracking.prefix)
    base = _base_model_if_found(settings, family)
    version = None if root is None else root.version

    replay = Replay(
        family=family,
        settings=settings,
        lineage=lineage,
        sessions=earlier_sessions(settings, lineage, version, session_ids),
        models=ModelLoader(settings=settings),
        base=base.path if base else None,
    )

    held_out = stacked_rows([split.validation, split.test])
    return replay.draw(split.train, held_out, session.folder / REPLAYED_SIDE)


def _families_with_samples(
    settings: Settings, database: DatabaseManager, session_ids: Sequence[str], model_type: str
) -> tuple[ModelFamily, ...]:
    """Return the families to prepare: nothing is trained, so `all` needs no samples of each."""
    summaries = summaries_of(database, session_ids)
    families = requested_families(model_type)
    if model_type == ALL_FAMILIES:
        kinds = {kind for summary in summaries for kind, count in summary.samples.items() if count}
        families = tuple(family for family in families if family.kind in kinds) or families

    check_sessions(settings, summaries, families)
    return families


def _base_model_if_found(settings: Settings, family: ModelFamily) -> ResolvedModel | None:
    """Return the configured base model, or None with a warning if it can't be found."""
    try:
        return family.resolve_base(settings)
    except ModelError as error:
        logger.warning(
            "%s: lengths in tokens, outliers and mislabelled rows are not checked: %s",
            family.name,
            error,
        )
        return None
