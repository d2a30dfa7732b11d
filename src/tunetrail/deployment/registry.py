"""The model registry of one family: versions that are written completely or not at all."""

import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from safetensors import SafetensorError

from tunetrail.deployment.digests import FolderDigest, digest_folder, write_listing
from tunetrail.deployment.flavors import Flavor, NDArray
from tunetrail.deployment.root_alias import ROOT, RootAlias, in_words
from tunetrail.deployment.version_files import check_digest, copied_files, remove_files
from tunetrail.errors import DeploymentError, ModelError, TrackingError
from tunetrail.paths import give_usual_modes
from tunetrail.scratch import scratch_folder
from tunetrail.stores.tracked_runs import LONGEST_DIGEST
from tunetrail.stores.tracking import TrackedRun, Tracker, safe_name, tracking_errors

logger = logging.getLogger(__name__)

DIGEST_TAG = "tunetrail.digest"
"""The tag of a version with the digest of its files."""
PARITY = 1e-4
"""Largest allowed difference between the outputs of a trained model and its version, as a share of
the largest output.

Weights are compared exactly, so outputs differ only by rounding, some 1e-6 of the largest after
tens of layers in float32, or by a configuration that was lost, which changes them in the first
digits. An absolute difference would be a false alarm for logits, which reach tens.
"""

ReadDigest = Callable[[str, str], str | None]
"""Takes a version and the MLflow run that registered it; returns the digest of its files in the
ledger, None if the ledger has none."""


def no_digest(version: str, run_id: str) -> str | None:
    """Return None: without a ledger, only the version itself tells its digest."""
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """A version in the registry.

    Attributes:
        name: Name of the registered model.
        version: Number of the version, as text.
        base_model: Name of the base model that it descends from.
        digest: Digest of its files; None before digests were kept. Two records of a version are
            equal whether or not both know it.
    """

    name: str
    version: str
    base_model: str | None
    digest: str | None = field(default=None, compare=False)

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
        read_digest: Reads the digest of a version's files from the ledger, which nobody can change.
    """

    def __init__(
        self, tracker: Tracker, name: str, flavor: Flavor, read_digest: ReadDigest = no_digest
    ) -> None:
        self.tracker = tracker
        self.name = name
        self.flavor = flavor
        self.read_digest = read_digest

    @property
    def alias(self) -> RootAlias:
        """The alias `root` of the model."""
        return RootAlias(tracker=self.tracker, name=self.name)

    def root(self) -> ModelVersion | None:
        """Return the version that the alias `root` names; None before the first promotion."""
        number = self.alias.version()
        version = None if number is None else self.alias.find(number)
        # The version may have been deleted in between, and with it the alias.
        if version is None:
            return None
        return ModelVersion(
            name=self.name,
            version=str(version.version),
            base_model=version.tags.get("tunetrail.base_model"),
            digest=version.tags.get(DIGEST_TAG),
        )

    def version_of_run(self, run: TrackedRun, base_model: str) -> ModelVersion | None:
        """Return the version that a run has registered; None if it has registered none."""
        version = self.tracker.version_of_run(self.name, run.run_id)
        if version is None:
            return None
        digest = self._stored(version).tags.get(DIGEST_TAG)
        return ModelVersion(name=self.name, version=version, base_model=base_model, digest=digest)

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
        """Load a version's model from files that are those that were registered.

        Raises:
            DeploymentError: Its files are gone, broken, or others than those.
        """
        with self.files(version) as folder:
            return self._read(folder, version.uri)

    @contextlib.contextmanager
    def files(self, version: ModelVersion) -> Iterator[Path]:
        """Yield a private copy of a version's files, compared with those that were registered.

        Raises:
            DeploymentError: The files are gone, or others than those.
        """
        with contextlib.ExitStack() as stack:
            with self._explaining(version.uri):
                stored = self._stored(version.version)
                location = self.tracker.client.get_model_version_download_uri(
                    self.name, version.version
                )
                folder = stack.enter_context(copied_files(location, self.tracker.config.uri))

            # The ledger first: anybody who can write to MLflow can change a tag.
            recorded = self.read_digest(version.version, stored.run_id or "")
            digest = recorded or stored.tags.get(DIGEST_TAG)
            if digest is not None:
                check_digest(folder, digest, version.uri)
            else:
                _say_once_that_nothing_is_compared(version.uri)
            yield folder

    def _read(self, folder: Path, uri: str) -> Any:
        with self._explaining(uri):
            return self.flavor.load(str(folder))

    @contextlib.contextmanager
    def _explaining(self, uri: str) -> Iterator[None]:
        """Turn errors of reading a version into a `DeploymentError` that says what to do."""
        try:
            yield
        # Broken files raise whatever their readers stumble over.
        except (
            MlflowException, SafetensorError, ModelError, OSError, RuntimeError, ValueError
        ) as error:  # fmt: skip
            reason = " ".join(str(error).split()).rstrip(".")
            raise DeploymentError(
                f"{uri} can't be loaded: {reason}. Restore its files, or make another version "
                f"root: `tunetrail root rollback {self.name} --reason ...`."
            ) from error

    def _stored(self, version: str) -> Any:
        """Return MLflow's record of a version."""
        with tracking_errors(self.tracker.config.uri):
            return self.tracker.client.get_model_version(self.name, version)

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
        """Write the model as a new version, and check that it is the trained model, byte by byte.

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
            digest = self._check_written(model, logged, probes)
            with tracking_errors(self.tracker.config.uri):
                self._ensure_registered_model()
                created = client.create_model_version(
                    self.name,
                    source=logged.artifact_location,
                    run_id=run.run_id,
                    model_id=logged.model_id,
                    tags={"tunetrail.base_model": base_model, DIGEST_TAG: digest, **tags},
                    description=description,
                )
                version = str(created.version)
        # BaseException: Ctrl-C must not leave half a version either.
        except BaseException as error:
            self._undo(logged, version, error)
            raise

        return ModelVersion(name=self.name, version=version, base_model=base_model, digest=digest)

    def log_scores(
        self,
        version: ModelVersion,
        run: TrackedRun,
        scores: Mapping[str, float],
        dataset: tuple[str, str],
    ) -> None:
        """Log a version's scores with the model that it is made of, unless it has scores.

        MLflow's pages of models and versions then show them, with the rows that they come from.

        Args:
            version: The version.
            run: The run that trained and registered it.
            scores: The value of each metric.
            dataset: The name and the digest of the rows, as the run logged them.
        """
        client, (name, digest) = self.tracker.client, dataset
        with tracking_errors(self.tracker.config.uri):
            outputs = client.get_run(run.run_id).outputs
            if outputs is None or not outputs.model_outputs:
                return
            logged = client.get_logged_model(outputs.model_outputs[-1].model_id)
            versions = json.dumps([{"name": version.name, "version": version.version}])
            client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: versions})
            if logged.metrics:
                return

            milliseconds = int(time.time() * 1000)
            metrics = [
                Metric(
                    safe_name(key),
                    value,
                    milliseconds,
                    step=0,
                    model_id=logged.model_id,
                    dataset_name=name,
                    dataset_digest=digest[:LONGEST_DIGEST],
                )
                for key, value in scores.items()
            ]
            client.log_batch(run.run_id, metrics=metrics)

    def move_root(
        self, version: ModelVersion, expected: ModelVersion | None, tags: Mapping[str, str]
    ) -> None:
        """Move `root` from the expected version to `version`, unless it is there already.

        Raises:
            RootMovedError: `root` is no longer the version that `version` was compared with.
        """
        with self.alias.lock():
            if self.alias.version() == version.version:
                return
            previous = None if expected is None else expected.version
            self.alias.check(previous)
            # Tags first: once the alias has moved, nothing is left to do here.
            self.tag(version, {"tunetrail.previous_root": in_words(previous), **tags})
            self.alias.move(version.version)

    def tag(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Set tags on a version."""
        self.alias.tag(version.version, tags)

    def describe(self, version: ModelVersion, description: str) -> None:
        """Replace what MLflow's pages say of a version, in Markdown."""
        with tracking_errors(self.tracker.config.uri):
            self.tracker.client.update_model_version(self.name, version.version, description)

    def _write(self, model: Any, logged: Any, run: TrackedRun) -> None:
        """Write the model's files to the artifacts of a logged model."""
        with scratch_folder() as temporary:
            folder = temporary / "model"
            metadata = Model(
                artifact_path=logged.artifact_location,
                model_uuid=logged.model_id,
                run_id=run.run_id,
                model_id=logged.model_id,
            )

            # A full disk surfaces as an error of safetensors.
            try:
                self.flavor.save(model, folder, metadata)
                give_usual_modes(folder)
            except SafetensorError as error:
                raise DeploymentError(
                    f"the {self.name} model can't be written to {temporary}: {error}"
                ) from error

            self.tracker.client.log_model_artifacts(logged.model_id, str(folder))

    def _write_listing(self, digests: FolderDigest, logged: Any) -> None:
        """Write the list of a logged model's files to its artifacts."""
        with (
            tracking_errors(self.tracker.config.uri),
            scratch_folder() as folder,
        ):
            write_listing(digests, folder)
            self.tracker.client.log_model_artifacts(logged.model_id, str(folder))

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

    def _check_written(self, model: Any, logged: Any, probes: Sequence[str]) -> str:
        """Read the written model as a later run will, and compare it with the trained one.

        A later run loads files with the digest that is taken here, by the same loader: its scores
        are those of the trained model.

        Returns:
            The digest of the files, as the store gives them back.

        Raises:
            DeploymentError: The weights or the outputs differ.
        """
        uri = f"models:/{logged.model_id}"
        with contextlib.ExitStack() as stack:
            with self._explaining(uri):
                copy = copied_files(logged.artifact_location, self.tracker.config.uri)
                folder = stack.enter_context(copy)
            digests = digest_folder(folder)
            written = self._read(folder, uri)

        unchanged = "It was not registered; root is unchanged."
        name = _different_weight(self.flavor.weights(model), self.flavor.weights(written))
        if name is not None:
            raise DeploymentError(
                f"the written {self.name} model must have the trained model's weights, got a "
                f"different {name}. {unchanged}"
            )

        expected, outputs = self.flavor.outputs(model, probes), self.flavor.outputs(written, probes)
        difference, largest = float(np.abs(outputs - expected).max()), float(np.abs(expected).max())
        # Written so that a difference of NaN fails too.
        if not difference <= PARITY * largest:
            raise DeploymentError(
                f"the written {self.name} model must give the trained model's outputs within "
                f"{PARITY} of the largest, {largest:.3g}, got a difference of {difference:.3g}. "
                f"{unchanged}"
            )

        self._write_listing(digests, logged)
        return digests.digest

    def _undo(self, logged: Any, version: str | None, error: BaseException) -> None:
        """Remove what was written of a failed version, without hiding the error that failed it."""
        client, model_id = self.tracker.client, logged.model_id
        try:
            with tracking_errors(self.tracker.config.uri), contextlib.suppress(MlflowException):
                # The version first: it must not be seen without its model.
                if version is not None:
                    client.delete_model_version(self.name, version)
                client.finalize_logged_model(model_id, LoggedModelStatus.FAILED)
                client.delete_logged_model(model_id)
                # MLflow only marks the model as deleted, and its files may be gigabytes.
                remove_files(logged.artifact_location, self.tracker.config.uri)
        except TrackingError as second:
            error.add_note(f"The unfinished model {model_id} could not be removed: {second}")


def _different_weight(
    expected: Mapping[str, NDArray], written: Mapping[str, NDArray]
) -> str | None:
    """Return the name of a weight that only one model has, or that differs; None if none does."""
    for name in sorted(expected.keys() | written.keys()):
        if name not in expected or name not in written:
            return name
        if not np.array_equal(expected[name], written[name]):
            return name
    return None


@functools.cache
def _say_once_that_nothing_is_compared(uri: str) -> None:
    """Log once in a process that a version has no digest."""
    logger.warning(
        "%s was registered before digests were kept, so its files aren't compared with what was "
        "registered. The next version has one.",
        uri,
    )
