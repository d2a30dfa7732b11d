"""Prepares a session's rows for reading, without a training."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tunetrail.config import Settings, name_of_sessions
from tunetrail.data.flow.prepared import PreparedSession, claim_folder
from tunetrail.data.report.session_report import join_sessions
from tunetrail.errors import ModelError
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.pipeline import DataSciencePipeline
from tunetrail.pipeline.families import ALL_FAMILIES, requested_families
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.requests import check_sessions, summaries_of
from tunetrail.pipeline.session_rows import rows_by_session
from tunetrail.stores.database import DatabaseManager

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

    # The families write into a scratch folder first: `folder` gets all of them or none.
    pipeline = DataSciencePipeline(settings)
    sessions, max_lengths = {}, {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".parts-") as scratch:
        for family in families:
            sessions[family.name] = pipeline.prepare(
                family.name,
                rows_by_session(database, session_ids, family, settings),
                Path(scratch) / family.name,
                base=_base_model_if_found(settings, family),
            )
            max_lengths[family.name] = family.section(settings).max_length

        return join_sessions(sessions, folder, name_of_sessions(session_ids), max_lengths)


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
