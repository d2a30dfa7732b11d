"""The model registry of one family: versions that are written completely or not at all, and `root`.

MLflow has no compare-and-swap for aliases. So `root` moves under a lock of our own, and only from
the version that the candidate was compared with.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from safetensors import SafetensorError

from tunetrail.deployment.flavors import Flavor
from tunetrail.errors import DeploymentError, TrackingError
from tunetrail.stores.tracking import TrackedRun, Tracker, tracking_errors

ROOT = "root"
PARITY = 1e-4
"""Largest allowed difference between the outputs of a trained model and its version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """A version in the registry.

    Attributes:
        name: Name of the registered model.
        version: Number of the version, as text.
        base_model: Name of the base model that it descends from.
    """

    name: str
    version: str
    base_model: str | None

    @property
    def uri(self) -> str:
        """Return `models:/name/version`."""
        return f"models:/{self.name}/{self.version}"


class Registry:
    """The versions of one family of models.

    Args:
        tracker: The MLflow store.
        name: The name under which the versions are registered.
        flavor: How a version is written and read back.
    """

    def __init__(self, tracker: Tracker, name: str, flavor: Flavor) -> None:
        self.tracker = tracker
        self.name = name
        self.flavor = flavor

    def root(self) -> ModelVersion | None:
        """Return the version that the alias `root` names; None before the first promotion."""
        with tracking_errors(self.tracker.config.uri):
            try:
                version = self.tracker.client.get_model_version_by_alias(self.name, ROOT)
            except MlflowException as error:
                # MLflow answers with either code if there is no model or no alias.
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        base_model = version.tags.get("tunetrail.base_model")
        return ModelVersion(name=self.name, version=str(version.version), base_model=base_model)

    def version_of_run(self, run: TrackedRun, base_model: str) -> ModelVersion | None:
        """Return the version that a run has registered; None if it has registered none."""
        version = self.tracker.version_of_run(self.name, run.run_id)
        if version is None:
            return None
        return ModelVersion(name=self.name, version=version, base_model=base_model)

    def ancestors(self, version: str) -> list[str]:
        """Return the versions that a version's training and theirs began with, the latest first.

        The last one may have been deleted, and with it what is known of its own start.
        """
        ancestors: list[str] = []
        start = self._start_of(version)
        # A version begins with an older one, so a tag that says otherwise was changed.
        while start is not None and start not in (version, *ancestors):
            ancestors.append(start)
            start = self._start_of(start)
        return ancestors

    def _start_of(self, version: str) -> str | None:
        """Return the version that another one began with; None if it is unknown or the base."""
        with tracking_errors(self.tracker.config.uri):
            try:
                tags = self.tracker.client.get_model_version(self.name, version).tags
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise
        prefix, _, start = tags.get("tunetrail.started_from", "").rpartition("/")
        return start if prefix == f"models:/{self.name}" else None

    def load(self, version: ModelVersion) -> Any:
        """Load a version's model; raise `DeploymentError` if its files are gone or broken."""
        return self._load(version.uri)

    def _load(self, uri: str) -> Any:
        self.tracker.activate()
        try:
            return self.flavor.load(uri)
        except (MlflowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise DeploymentError(
                f"{uri} can't be loaded: {reason}. Restore its files, or move the alias {ROOT!r} "
                f"of {self.name!r} to another version with MlflowClient."
            ) from error

    def register(
        self,
        model: Any,
        run: TrackedRun,
        *,
        base_model: str,
        probes: Sequence[str],
        tags: Mapping[str, str],
        description: str = "",
    ) -> ModelVersion:
        """Write the model as a new version, and check that it gives the trained model's outputs.

        Args:
            model: The trained model, adapters merged.
            run: The run that trained it.
            base_model: Canonical name of the model that the chain of trainings began with.
            probes: Texts on which both must give the same outputs.
            tags: Further tags of the version.
            description: What MLflow's pages say of the version, in Markdown.

        Raises:
            DeploymentError: The version couldn't be written, or differs from the trained model;
                nothing of it is left.
        """
        client = self.tracker.client
        version: str | None = None
        with tracking_errors(self.tracker.config.uri):
            logged = client.create_logged_model(
                self.tracker.experiment_id,
                name=self.name,
                source_run_id=run.run_id,
                model_type=self.name,
            )

        # The version is created last: nobody sees one that wasn't loaded and compared.
        try:
            with tracking_errors(self.tracker.config.uri):
                self._write(model, logged, run)
                client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
                client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
            self._check_parity(model, f"models:/{logged.model_id}", probes)
            with tracking_errors(self.tracker.config.uri):
                self._ensure_registered_model()
                created = client.create_model_version(
                    self.name,
                    source=logged.artifact_location,
                    run_id=run.run_id,
                    model_id=logged.model_id,
                    tags={"tunetrail.base_model": base_model, **tags},
                    description=description,
                )
                version = str(created.version)
        # BaseException: Ctrl-C must not leave half a version either.
        except BaseException as error:
            self._undo(logged.model_id, version, error)
            raise

        return ModelVersion(name=self.name, version=version, base_model=base_model)

    def move_root(
        self, version: ModelVersion, expected: ModelVersion | None, tags: Mapping[str, str]
    ) -> None:
        """Move `root` from the expected version to `version`, unless it is there already.

        Raises:
            DeploymentError: `root` is no longer the version that `version` was compared with.
        """
        with self.tracker.lock(f"{self.name}.{ROOT}"), tracking_errors(self.tracker.config.uri):
            root = self.root()
            if root is not None and root.version == version.version:
                return

            # Before the first promotion both sides are None.
            if (root and root.version) != (expected and expected.version):
                raise DeploymentError(
                    f"root of {self.name} moved while the candidate was trained: it was "
                    f"{_describe(expected)}, it is now {_describe(root)}. Train again, so that the "
                    "candidate is compared with the new root."
                )

            # Tags first: once the alias has moved, nothing is left to do here.
            self.tag(version, {"tunetrail.previous_root": _describe(root), **tags})
            self.tracker.client.set_registered_model_alias(self.name, ROOT, version.version)

            # Read back: the lock holds among this machine's processes only.
            moved = self.root()
            if moved is None or moved.version != version.version:
                raise DeploymentError(
                    f"root of {self.name} must be version {version.version}, "
                    f"got {_describe(moved)}. Something else moved the alias; train again."
                )

    def tag(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Set tags on a version."""
        with tracking_errors(self.tracker.config.uri):
            for key, value in tags.items():
                self.tracker.client.set_model_version_tag(self.name, version.version, key, value)

    def describe(self, version: ModelVersion, description: str) -> None:
        """Replace what MLflow's pages say of a version, in Markdown."""
        with tracking_errors(self.tracker.config.uri):
            self.tracker.client.update_model_version(self.name, version.version, description)

    def _write(self, model: Any, logged: Any, run: TrackedRun) -> None:
        """Write the model's files to the artifacts of a logged model."""
        folder = Path(tempfile.mkdtemp(prefix="tunetrail-"))
        try:
            metadata = Model(
                artifact_path=logged.artifact_location,
                model_uuid=logged.model_id,
                run_id=run.run_id,
                model_id=logged.model_id,
            )

            # A full disk surfaces as an error of safetensors.
            try:
                self.flavor.save(model, folder / "model", metadata)
            except SafetensorError as error:
                raise DeploymentError(
                    f"the {self.name} model can't be written to {folder}: {error}"
                ) from error

            self.tracker.client.log_model_artifacts(logged.model_id, str(folder / "model"))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _ensure_registered_model(self) -> None:
        # Without asking first: two runs may find it absent at the same time.
        try:
            self.tracker.client.create_registered_model(
                self.name,
                description=f"tunetrail: load the trusted version with models:/{self.name}@{ROOT}",
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _check_parity(self, model: Any, uri: str, probes: Sequence[str]) -> None:
        """Raise `DeploymentError` if the written model gives other outputs than the trained one."""
        expected = self.flavor.outputs(model, probes)
        outputs = self.flavor.outputs(self._load(uri), probes)

        # Written so that a difference of NaN fails too.
        difference = float(np.abs(outputs - expected).max())
        if not difference <= PARITY:
            raise DeploymentError(
                f"the written {self.name} model must give the trained model's outputs within "
                f"{PARITY}, got a difference of {difference:.3g}. It was not registered; root is "
                "unchanged."
            )

    def _undo(self, model_id: str, version: str | None, error: BaseException) -> None:
        """Remove what was written of a failed version, without hiding the error that failed it."""
        client = self.tracker.client
        try:
            with tracking_errors(self.tracker.config.uri), contextlib.suppress(MlflowException):
                # The version first: it must not be seen without its model.
                if version is not None:
                    client.delete_model_version(self.name, version)
                client.finalize_logged_model(model_id, LoggedModelStatus.FAILED)
                client.delete_logged_model(model_id)
        except TrackingError as second:
            error.add_note(f"The unfinished model {model_id} could not be removed: {second}")


def _describe(version: ModelVersion | None) -> str:
    return "none" if version is None else f"version {version.version}"
