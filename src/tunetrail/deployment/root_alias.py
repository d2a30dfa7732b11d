"""The alias `root` of a registered model, and the files of its versions, without loading any model.

MLflow has no compare-and-swap for aliases. So `root` moves under a lock of our own, and only from
the version that it is expected at.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tunetrail.deployment.version_files import (
    check_digest,
    copied_files,
    copy_model,
    readable_files,
)
from tunetrail.errors import DeploymentError, ModelError
from tunetrail.stores.database.ledger import version_in_words
from tunetrail.stores.tracking.mlflow_answers import is_absent
from tunetrail.stores.tracking.tracker import Tracker, tracking_errors

ROOT = "root"


class RootMovedError(DeploymentError):
    """Root is no longer the version that a candidate was compared with."""


@dataclass(frozen=True, kw_only=True)
class RootAlias:
    """The alias `root` of one registered model.

    Attributes:
        tracker: The MLflow store.
        name: Name of the registered model.
    """

    tracker: Tracker
    name: str

    def version(self) -> str | None:
        """Return the version that is root; None if there is none."""
        with tracking_errors(self.tracker.config.uri):
            try:
                version = self.tracker.client.get_model_version_by_alias(self.name, ROOT)
            except MlflowException as error:
                if is_absent(self.tracker.client, self.name, error):
                    return None
                raise
        return str(version.version)

    def find(self, version: str) -> ModelVersion | None:
        """Return what MLflow knows of a version; None if there is no such version."""
        with tracking_errors(self.tracker.config.uri):
            try:
                return self.tracker.client.get_model_version(self.name, version)
            except MlflowException as error:
                if is_absent(self.tracker.client, self.name, error):
                    return None
                raise

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock under which the alias moves, shared by all processes of this machine."""
        with self.tracker.lock(f"{self.name}.{ROOT}"):
            yield

    def check(self, expected: str | None) -> None:
        """Raise `RootMovedError` if root isn't the expected version, None before the first one."""
        version = self.version()
        if version != expected:
            raise RootMovedError(
                f"root of {self.name} moved while the candidate was trained: it was "
                f"{version_in_words(expected)}, it is now {version_in_words(version)}. Train "
                "again, or resume the run, so that the candidate is compared with the new root."
            )

    def move(self, version: str) -> None:
        """Let the alias name a version, and read it back.

        Raises:
            DeploymentError: Something else moved the alias at the same moment.
        """
        with tracking_errors(self.tracker.config.uri):
            self.tracker.client.set_registered_model_alias(self.name, ROOT, version)

        # The locks hold among tunetrail's processes only.
        moved = self.version()
        if moved != version:
            raise DeploymentError(
                f"root of {self.name} must be version {version}, got {version_in_words(moved)}. "
                "Something else moved the alias; train again."
            )

    def remove(self) -> None:
        """Remove the alias, so that there is no root; it may be gone already."""
        with tracking_errors(self.tracker.config.uri):
            try:
                self.tracker.client.delete_registered_model_alias(self.name, ROOT)
            except MlflowException as error:
                if not is_absent(self.tracker.client, self.name, error):
                    raise

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a version."""
        with tracking_errors(self.tracker.config.uri):
            for key, value in tags.items():
                self.tracker.client.set_model_version_tag(self.name, version, key, value)

    def write_model(self, version: str, folder: Path, digest: str | None) -> None:
        """Write a version's files as the plain folder that its training exported.

        They are copied byte by byte, so that a rollback restores what was root.

        Args:
            version: The version.
            folder: The folder to make.
            digest: Digest of the version's files, if the ledger knows it.

        Raises:
            DeploymentError: The version's files are gone, aren't those that were registered, or
                belong to another flavor.
        """
        uri = f"models:/{self.name}/{version}"
        with self._files(version, copied_files) as files:
            if digest is not None:
                check_digest(files, digest, uri)

            copy_model(files, folder, uri)

    def check_files(self, version: str, digest: str) -> None:
        """Raise `DeploymentError` if a version's files are gone, or have another digest."""
        with self._files(version, readable_files) as files:
            check_digest(files, digest, f"models:/{self.name}/{version}")

    @contextlib.contextmanager
    def _files(
        self, version: str, read: Callable[[str, str], AbstractContextManager[Path]]
    ) -> Iterator[Path]:
        """Yield a version's files; raise `DeploymentError` if they are gone."""
        with contextlib.ExitStack() as stack:
            try:
                tracking_uri = self.tracker.config.uri
                location = self.tracker.client.get_model_version_download_uri(self.name, version)
                files = stack.enter_context(read(location, tracking_uri))
            except (MlflowException, OSError, ModelError) as error:
                reason = str(error).partition("\n")[0].rstrip(".")
                raise DeploymentError(
                    f"models:/{self.name}/{version} must have its files, got none: {reason}. "
                    "Restore its files, or roll back to another version."
                ) from error
            yield files
