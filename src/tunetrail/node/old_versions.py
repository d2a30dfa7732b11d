"""Deletes the versions that needn't stay after a training, if that is configured."""

from pathlib import Path

from tunetrail.config import Settings
from tunetrail.deployment.retention import apply_retention
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.deployment.root_moves import RootMoves
from tunetrail.pipeline.families import requested_families
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.tracking.tracker import Tracker


def delete_old_versions(
    settings: Settings, database: DatabaseManager, tracker: Tracker, model_type: str
) -> None:
    """Apply `retention` to the models of a training that has ended; by default, all stays.

    Args:
        settings: The settings of the training.
        database: Holds the ledger.
        tracker: The MLflow store.
        model_type: What was trained.
    """
    retention = settings.retention
    if retention.keep_versions is None:
        return
    for family in requested_families(model_type):
        name = settings.tracking.registered_name(family.name)
        alias = RootAlias(tracker=tracker, name=name)
        moves = RootMoves(alias=alias, model_dir=Path(settings.model_dir), database=database)
        apply_retention(moves, retention.keep_versions, retention.keep_days)
