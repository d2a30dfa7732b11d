"""Prepares a session's rows for reading, without a training."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
from tunetrail.pipeline import DataSciencePipeline
from tunetrail.pipeline.families import ALL_FAMILIES, family_named, requested_families
from tunetrail.pipeline.lineage import Lineage
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.model_loader import ModelLoader
from tunetrail.pipeline.replay import Replay, ReplayedRows, earlier_sessions
from tunetrail.pipeline.requests import check_sessions, summaries_of
from tunetrail.pipeline.run_files import write_rows
from tunetrail.pipeline.session_rows import rows_by_session
from tunetrail.scratch import scratch_folder, sweep
from tunetrail.stores.database import DatabaseManager
from tunetrail.stores.ledger import root_line

logger = logging.getLogger(__name__)


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
    pipeline = DataSciencePipeline(settings)
    sessions, max_lengths = {}, {}
    with scratch_folder(".parts-", folder) as scratch:
        for family in families:
            sessions[family.name] = pipeline.prepare(
                family.name,
                rows_by_session(database, session_ids, family, settings),
                scratch / family.name,
                base=_base_model_if_found(settings, family),
            )
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
) -> ReplayedRows:
    """Return the rows that a training would replay, by what the ledger says of root."""
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
