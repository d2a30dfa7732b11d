"""Prepares a session's rows for reading, without a training."""

import logging
import tempfile
from pathlib import Path

from tunetrail.config import Settings
from tunetrail.data.flow.prepared import PreparedSession, claim_folder
from tunetrail.data.report.session_report import join_sessions
from tunetrail.errors import ModelError
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.pipeline import DataSciencePipeline
from tunetrail.pipeline.families import ALL_FAMILIES, requested_families
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.requests import check_samples
from tunetrail.pipeline.session_rows import previous_rows, training_frames
from tunetrail.stores.database import DatabaseManager

logger = logging.getLogger(__name__)


def prepare_session(
    settings: Settings,
    database: DatabaseManager,
    session_id: str,
    model_type: str,
    folder: Path,
) -> PreparedSession:
    """Validate, clean and split a session's rows into `folder`; record nothing.

    Raises:
        UserError: The session can't be prepared.
    """
    families = _families_with_samples(database, session_id, model_type)
    claim_folder(folder)

    # The families write into a scratch folder first: `folder` gets all of them or none.
    pipeline = DataSciencePipeline(settings)
    sessions, max_lengths = {}, {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".parts-") as scratch:
        for family in families:
            sessions[family.name] = pipeline.prepare(
                family.name,
                training_frames(database, session_id, family, settings),
                Path(scratch) / family.name,
                reference=previous_rows(database, session_id, family, settings),
                base=_base_model_if_found(settings, family),
            )
            max_lengths[family.name] = family.section(settings).max_length

        return join_sessions(sessions, folder, session_id, max_lengths)


def _families_with_samples(
    database: DatabaseManager, session_id: str, model_type: str
) -> tuple[ModelFamily, ...]:
    """Return the families to prepare: nothing is trained, so `all` needs no samples of each."""
    summary = database.session_summary(session_id)
    families = requested_families(model_type)
    if model_type == ALL_FAMILIES:
        with_samples = tuple(filter(lambda family: summary.samples.get(family.kind), families))
        families = with_samples or families

    check_samples(summary, families)
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
