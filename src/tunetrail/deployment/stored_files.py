"""The files of a model or a run in an artifact store, to count and to remove them."""

import contextlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tunetrail.errors import DeploymentError
from tunetrail.stores.tracking.tracker import tracking_errors

# MLflow makes such folders for the files of a model (m-...) and of a run.
_FOLDER = re.compile(r".*/(m-)?[0-9a-f]{32}/artifacts/?")


@dataclass(frozen=True, kw_only=True)
class StoredFiles:
    """The files of one model or run in the artifact store.

    Attributes:
        location: URI of their folder.
        tracking_uri: The MLflow store that they belong to.
        kept: Names at the top of the folder that stay.
    """

    location: str
    tracking_uri: str
    kept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Whoever can write to MLflow's database could name any folder of this machine.
        if _FOLDER.fullmatch(self.location) is None:
            raise DeploymentError(
                "artifacts to remove must be in a folder that MLflow made for a run or a model, "
                f"got {self.location}. Remove them by hand."
            )

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file that `remove` removes, by its path or URI."""
        folder = self._local_folder()
        if folder is None:
            with tracking_errors(self.tracking_uri):
                return dict(self._remote_sizes(""))

        sizes = {}
        for path in folder.rglob("*"):
            is_kept = path.relative_to(folder).parts[0] in self.kept
            if not is_kept and (path.is_symlink() or not path.is_dir()):
                sizes[str(path)] = path.lstat().st_size
        return sizes

    def remove(self) -> None:
        """Remove the files; it is no error if they are gone.

        Raises:
            DeploymentError: The store can't remove files.
            TrackingError: The store failed.
        """
        repository, folder = self._repository(), self._local_folder()
        try:
            with tracking_errors(self.tracking_uri):
                for name in self._names(repository):
                    if name not in self.kept:
                        repository.delete_artifacts(name)
        except NotImplementedError as error:
            raise DeploymentError(
                f"the artifact store of {self.location} can't remove files. Remove them by hand."
            ) from error

        # A store on a disk has folders of its own, which are left empty.
        if folder is not None:
            with contextlib.suppress(OSError):
                folder.rmdir()
                folder.parent.rmdir()

    def _names(self, repository: Any) -> list[str]:
        """Return the names at the top of the folder."""
        folder = self._local_folder()
        if folder is None:
            return [artifact.path for artifact in repository.list_artifacts()]
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []

    def _remote_sizes(self, path: str) -> Iterator[tuple[str, int]]:
        for artifact in self._repository().list_artifacts(path or None):
            if artifact.path in self.kept:
                continue
            if artifact.is_dir:
                yield from self._remote_sizes(artifact.path)
            else:
                yield posixpath.join(self.location, artifact.path), artifact.file_size or 0

    def _local_folder(self) -> Path | None:
        """Return the folder if it is on this machine; None if another one keeps it."""
        url = urlsplit(self.location)
        return Path(url2pathname(url.path)) if url.scheme in ("", "file") else None

    def _repository(self) -> Any:
        return get_artifact_repository(self.location, tracking_uri=self.tracking_uri)
