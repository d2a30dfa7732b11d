"""The model registry of one family: its versions, and which of them is root."""

import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from tunetrail.deployment.flavors import Flavor
from tunetrail.deployment.model_version import DIGEST_TAG, ModelVersion
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.deployment.version_files import check_digest, copied_files, explaining_broken_files
from tunetrail.deployment.version_writer import VersionWriter
from tunetrail.stores.database.ledger import version_in_words
from tunetrail.stores.tracking.mlflow_answers import is_absent
from tunetrail.stores.tracking.tracked_runs import LONGEST_DIGEST
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker, safe_name, tracking_errors

logger = logging.getLogger(__name__)

ReadDigest = Callable[[str, str], str | None]
"""Takes a version and the MLflow run that registered it; returns the digest of its files in the
ledger, None if the ledger has none."""


def no_digest(version: str, run_id: str) -> str | None:
    """Return None: without a ledger, only the version itself tells its digest."""
    return None


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

    @property
    def writer(self) -> VersionWriter:
        """Writes trained models as new versions."""
        return VersionWriter(self.tracker, self.name, self.flavor)

    def root(self) -> ModelVersion | None:
        """Return the version that the alias `root` names; None before the first promotion."""
        root_version = self.alias.version()
        version = None if root_version is None else self.alias.find(root_version)
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
                if is_absent(self.tracker.client, self.name, error):
                    return None
                raise
        prefix, _, start = tags.get("tunetrail.started_from", "").rpartition("/")
        return start if prefix == f"models:/{self.name}" else None

    def load(self, version: ModelVersion) -> Any:
        """Load a version's model from files that are those that were registered.

        Raises:
            DeploymentError: Its files are gone or broken, or aren't those that were registered.
        """
        with self.files(version) as folder, explaining_broken_files(self.name, version.uri):
            return self.flavor.load(str(folder))

    @contextlib.contextmanager
    def files(self, version: ModelVersion) -> Iterator[Path]:
        """Yield a private copy of a version's files, compared with those that were registered.

        Raises:
            DeploymentError: The files are gone, or aren't those that were registered.
        """
        with contextlib.ExitStack() as stack:
            with explaining_broken_files(self.name, version.uri):
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

    def _stored(self, version: str) -> Any:
        """Return MLflow's record of a version."""
        with tracking_errors(self.tracker.config.uri):
            return self.tracker.client.get_model_version(self.name, version)

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
            self.tag(version, {"tunetrail.previous_root": version_in_words(previous), **tags})
            self.alias.move(version.version)

    def tag(self, version: ModelVersion, tags: Mapping[str, str]) -> None:
        """Set tags on a version."""
        self.alias.tag(version.version, tags)

    def describe(self, version: ModelVersion, description: str) -> None:
        """Replace what MLflow's pages say of a version, in Markdown."""
        with tracking_errors(self.tracker.config.uri):
            self.tracker.client.update_model_version(self.name, version.version, description)


@functools.cache
def _say_once_that_nothing_is_compared(uri: str) -> None:
    """Log once in a process that a version has no digest."""
    logger.warning(
        "%s was registered before digests were kept, so its files aren't compared with what was "
        "registered. The next version has one.",
        uri,
    )
