"""Settles what dead processes left: open runs, half-done moves of root, and folders."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tunetrail.config import Settings, check_identifier, name_of_sessions
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.deployment.root_moves import RootMoves
from tunetrail.pipeline import remove_leftovers
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.scratch import sweep
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


def end_dead_training_runs(database: DatabaseManager) -> None:
    """Mark the training runs of dead processes as interrupted in the database."""
    for run in database.mark_interrupted_runs():
        logger.warning(
            "a training run (session %s) was left by a process that died; "
            "it is marked as interrupted: `tunetrail resume %s` continues it",
            name_of_sessions(run.session_ids),
            run.run_id,
        )


def end_dead_tracked_runs(settings: Settings, tracker: Tracker) -> None:
    """Mark the MLflow runs of dead processes as interrupted, and remove their working folders."""
    for run_id in tracker.mark_interrupted_runs():
        logger.warning(
            "the MLflow run %s was left by a process that died; it is marked as interrupted",
            run_id,
        )
        folder_name = check_identifier("run_id", run_id)
        remove_leftovers(Path(settings.output_dir) / folder_name)


def settle_roots(
    settings: Settings,
    tracker: Tracker,
    database: DatabaseManager,
    families: Sequence[ModelFamily],
) -> None:
    """Finish the moves of dead processes, and remove what they left in other folders."""
    for family in families:
        name = settings.tracking.registered_name(family.name)
        alias = RootAlias(tracker=tracker, name=name)
        RootMoves(alias=alias, model_dir=Path(settings.model_dir), database=database).settle()

    for folder in sweep(Path(tempfile.gettempdir())):
        logger.warning("removed %s, which a dead process left", folder)
