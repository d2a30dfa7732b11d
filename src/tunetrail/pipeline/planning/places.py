"""Places: what a training will register where, read without writing anything."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunetrail.config import Settings
from tunetrail.deployment.export import exported_root
from tunetrail.paths import is_missing_file, shown_uri
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.plain_values import plain_values
from tunetrail.stores.database.ledger import root_line
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.runs.quick_alias import quick_alias

ALIAS = "root"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a training writes what it makes.

    Attributes:
        tracking_uri: The MLflow store, without a password.
        experiment: The experiment of the run.
        registered_model: The name under which a new version is registered.
        alias: The alias that moves to the version if it passes the gate.
        root_version: The version that has the alias now; None if there is none.
        starts_from: What the training begins with: `base`, or a version's address.
        exported_to: The folder that follows the alias.
        output_dir: The folder of checkpoints while the training runs.
        free_bytes: Free disk space there.
    """

    tracking_uri: str
    experiment: str
    registered_model: str
    alias: str
    root_version: str | None
    starts_from: str
    exported_to: str
    output_dir: str
    free_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return plain_values(self)


def find_places(settings: Settings, database: DatabaseManager, family: ModelFamily) -> Places:
    """Return where a training of a family writes what it makes."""
    tracking = settings.tracking
    name = tracking.registered_name(family.name)
    version = _root_version(tracking.uri, database, name)

    begins_with_root = version is not None and family.section(settings).start_from == "root"
    return Places(
        tracking_uri=shown_uri(tracking.uri),
        experiment=tracking.experiment,
        registered_model=name,
        alias=ALIAS,
        root_version=version,
        starts_from=f"models:/{name}@{ALIAS}" if begins_with_root else "base",
        exported_to=str(exported_root(Path(settings.model_dir), name)),
        output_dir=settings.output_dir,
        free_bytes=free_space(Path(settings.output_dir)),
    )


def _root_version(uri: str, database: DatabaseManager, name: str) -> str | None:
    """Return the version that is root, from MLflow's file if it is one, else from the ledger."""
    alias = quick_alias(uri, name)
    if alias is not None:
        return alias.version
    # A store that doesn't exist yet has no root, whatever an old ledger says.
    if is_missing_file(uri):
        return None
    line = root_line(database.ledger_lines(name))
    return None if line is None else line.version


def free_space(folder: Path) -> int:
    """Return the free bytes of the disk on which a folder is or will be."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
