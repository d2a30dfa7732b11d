"""Writes a trained model as a version of the registry, completely or not at all."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from safetensors import SafetensorError

from tunetrail.deployment.digests import FolderDigest, digest_folder, write_listing
from tunetrail.deployment.flavors import Flavor, NDArray
from tunetrail.deployment.model_version import DIGEST_TAG, ModelVersion
from tunetrail.deployment.root_alias import ROOT
from tunetrail.deployment.stored_files import StoredFiles
from tunetrail.deployment.version_files import copied_files, explaining_broken_files
from tunetrail.errors import DeploymentError, TrackingError
from tunetrail.paths import give_usual_modes
from tunetrail.scratch import scratch_folder
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker, tracking_errors

PARITY = 1e-4
"""Largest allowed difference between the outputs of a trained model and its version, as a share of
the largest output.

Weights are compared exactly, so outputs differ only by rounding, some 1e-6 of the largest after
tens of layers in float32, or by a configuration that was lost, which changes them in the first
digits. An absolute difference would be a false alarm for logits, which reach tens.
"""


class VersionWriter:
    """Writes models as versions of one registered model.

    Args:
        tracker: The MLflow store.
        name: Name of the registered model.
        flavor: How a version is written and read back.
    """

    def __init__(self, tracker: Tracker, name: str, flavor: Flavor) -> None:
        self.tracker = tracker
        self.name = name
        self.flavor = flavor

    def write(
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

        A later run loads files with the digest that is taken here, by the same loader: it gets the
        trained model's scores.

        Returns:
            The digest of the files, as the store gives them back.

        Raises:
            DeploymentError: The weights or the outputs differ.
        """
        uri = f"models:/{logged.model_id}"
        with contextlib.ExitStack() as stack:
            stack.enter_context(explaining_broken_files(self.name, uri))
            copy = copied_files(logged.artifact_location, self.tracker.config.uri)
            folder = stack.enter_context(copy)
            digests = digest_folder(folder)
            written = self.flavor.load(str(folder))

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
                f"the written {self.name} model must give the trained model's outputs to within "
                f"{PARITY * largest:.3g} ({PARITY} of the largest output), got a difference of "
                f"{difference:.3g}. {unchanged}"
            )

        self._write_listing(digests, logged)
        return digests.digest

    def _undo(self, logged: Any, version: str | None, error: BaseException) -> None:
        """Remove what was written of a failed version, without hiding the error that failed it."""
        client, model_id, uri = self.tracker.client, logged.model_id, self.tracker.config.uri
        try:
            with tracking_errors(uri), contextlib.suppress(MlflowException):
                # The version first: it must not be seen without its model.
                if version is not None:
                    client.delete_model_version(self.name, version)
                client.finalize_logged_model(model_id, LoggedModelStatus.FAILED)
                client.delete_logged_model(model_id)
                # MLflow only marks the model as deleted, and its files may be gigabytes.
                StoredFiles(location=logged.artifact_location, tracking_uri=uri).remove()
        except (DeploymentError, TrackingError) as second:
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
