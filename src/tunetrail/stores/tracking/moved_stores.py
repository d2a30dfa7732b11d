"""A SQLite store that was moved or copied with its folder: its artifacts are found next to it.

MLflow stores the absolute URI of each artifact folder: in a copied project, runs would be written
to the original, and in a moved one nothing would be found. Relative URIs don't help, as MLflow
takes them relative to the folder of whatever process reads them. So an experiment has a tag that
names the folder in which the store was; if the store is opened in another one, the URIs follow.
"""

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

FOLDER_TAG = "tunetrail.store_folder"
# The columns of MLflow's tables that hold URIs of artifacts.
_URI_COLUMNS = {
    "runs": ("artifact_uri",),
    "experiments": ("artifact_location",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def follow_moved_store(file: Path) -> bool:
    """Let the URIs in a SQLite store follow the store if it was moved or copied.

    Artifacts that lie outside of what was moved stay where they are.

    Returns:
        Whether URIs were changed.
    """
    folder = file.parent
    with contextlib.closing(sqlite3.connect(file, timeout=20)) as connection, connection:
        # A fresh file has no tables yet.
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
            return False

        query = (
            "SELECT e.experiment_id, e.artifact_location, t.value FROM experiments e "
            "LEFT JOIN experiment_tags t ON t.experiment_id = e.experiment_id AND t.key = ?"
        )
        moved_roots: dict[str, str] = {}
        experiment_ids = []
        for experiment_id, location, stored_folder in connection.execute(query, (FOLDER_TAG,)):
            is_local = location is not None and location.startswith("file:")
            if not is_local or stored_folder == str(folder):
                continue
            artifacts = Path(url2pathname(urlsplit(location).path))
            here = _artifacts_here(connection, experiment_id, artifacts, stored_folder, folder)
            if here is not None:
                experiment_ids.append(experiment_id)
                if here != artifacts:
                    moved_roots[location] = here.as_uri()

        for root, moved_root in moved_roots.items():
            _replace_root(connection, root, moved_root)
        tags = [(FOLDER_TAG, str(folder), experiment_id) for experiment_id in experiment_ids]
        connection.executemany(
            "INSERT OR REPLACE INTO experiment_tags (key, value, experiment_id) VALUES (?, ?, ?)",
            tags,
        )
    return bool(moved_roots)


def _artifacts_here(
    connection: sqlite3.Connection,
    experiment_id: int,
    artifacts: Path,
    stored_folder: str | None,
    folder: Path,
) -> Path | None:
    """Return where an experiment's artifacts are now; None if they didn't move with the store.

    Args:
        connection: The store.
        experiment_id: The experiment.
        artifacts: Where the store says that they are.
        stored_folder: The folder in which the store was then; None if it doesn't say.
        folder: The folder in which it is now.
    """
    if stored_folder is None:
        # An older version of tunetrail made the store, by default next to its artifacts.
        here = folder / artifacts.name
        return here if _has_run_folders(connection, experiment_id, here) else None

    here = Path(os.path.normpath(folder / os.path.relpath(artifacts, stored_folder)))
    return here if here.is_dir() else None


def _has_run_folders(connection: sqlite3.Connection, experiment_id: int, folder: Path) -> bool:
    """Tell whether a folder holds artifacts of an experiment's runs."""
    runs = connection.execute("SELECT run_uuid FROM runs WHERE experiment_id = ?", (experiment_id,))
    return any((folder / run_id).is_dir() for (run_id,) in runs)


def _replace_root(connection: sqlite3.Connection, root: str, moved_root: str) -> None:
    for table, columns in _URI_COLUMNS.items():
        for column in columns:
            # The names are the constants above; a URI with a longer name isn't below the root.
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (moved_root, len(root) + 1, root, len(root) + 1, f"{root}/"),
            )
