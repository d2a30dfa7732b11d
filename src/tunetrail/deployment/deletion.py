"""The files and records of a registered version, and their removal, which survives a kill.

MLflow's `delete_model_version` removes a line of the registry and no file. The files belong to a
logged model, which neither that nor the deletion of its run touches, so that `mlflow gc` finds
nothing to free. The version goes last: after a kill, it tells the next process what has to be
removed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.entities import LoggedModel, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tunetrail.deployment.stored_files import StoredFiles
from tunetrail.stores.resumable_runs import CONFIGURATION
from tunetrail.stores.tracking.mlflow_answers import says_absent
from tunetrail.stores.tracking.run_tags import TRAINING_RUN_TAG
from tunetrail.stores.tracking.tracked_runs import CLEANED_TAG
from tunetrail.stores.tracking.tracker import Tracker, tracking_errors

# Artifacts of a run that stay: what was tried and what came of it, in some kilobytes.
_KEPT_ARTIFACTS = (CONFIGURATION, "results.json")
_MODEL_ID = re.compile(r"(?:^|/)(m-[0-9a-f]{32})(?:/|$)")


@dataclass(frozen=True, kw_only=True)
class VersionParts:
    """What goes with a version.

    Attributes:
        version: The version in MLflow.
        model_id: The logged model that it is made of; None if its source doesn't tell.
        run_ids: The runs whose artifacts go: its own, those below it, and the one above it if no
            other version is left of that.
        files: The files of the model and of the runs.
    """

    version: ModelVersion
    model_id: str | None
    run_ids: tuple[str, ...]
    files: tuple[StoredFiles, ...]

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file that goes."""
        return {path: size for files in self.files for path, size in files.sizes().items()}


def version_parts(tracker: Tracker, version: ModelVersion) -> VersionParts:
    """Return what goes with a version.

    Raises:
        DeploymentError: Its files aren't where MLflow keeps files of models.
    """
    uri = tracker.config.uri
    with tracking_errors(uri):
        runs = list(_runs_of(tracker, version))
        location = tracker.client.get_model_version_download_uri(version.name, version.version)
    model_id = model_id_of(location)
    files = [StoredFiles(location=location, tracking_uri=uri)] if model_id else []
    for run in runs:
        files.append(_files_of_run(run, uri))
    return VersionParts(
        version=version,
        model_id=model_id,
        run_ids=tuple(run.info.run_id for run in runs),
        files=tuple(files),
    )


def remove_version(tracker: Tracker, version: ModelVersion, reason: str) -> None:
    """Remove a version's files, its logged model and its line in the registry, in this order.

    The runs stay with their parameters, metrics and tags, without their artifacts. Repeating it
    after a kill finishes it.

    Args:
        tracker: The MLflow store.
        version: The version.
        reason: Why, for the tag of the runs.
    """
    parts = version_parts(tracker, version)
    for files in parts.files:
        files.remove()
    for run_id in parts.run_ids:
        run = tracker.find_run(run_id)
        # A run in MLflow's trash can't be tagged.
        if run is not None:
            text = f"{version.name}/{version.version} was deleted: {reason}"
            tracker.run(run_id).set_tags({CLEANED_TAG: text})

    with tracking_errors(tracker.config.uri):
        if parts.model_id is not None:
            _delete_logged_model(tracker, parts.model_id)
        try:
            tracker.client.delete_model_version(version.name, str(version.version))
        except MlflowException as error:
            if not says_absent(error):
                raise


def files_of_model(model: LoggedModel, uri: str) -> StoredFiles:
    """Return the files of a logged model."""
    return StoredFiles(location=model.artifact_location, tracking_uri=uri)


def remove_model(tracker: Tracker, model: LoggedModel) -> None:
    """Remove the files of a logged model, and then the model."""
    files_of_model(model, tracker.config.uri).remove()
    with tracking_errors(tracker.config.uri):
        _delete_logged_model(tracker, model.model_id)


def model_id_of(location: str) -> str | None:
    """Return the id of the logged model whose files are at a location; None if it tells none."""
    match = _MODEL_ID.search(location)
    return match[1] if match else None


def _delete_logged_model(tracker: Tracker, model_id: str) -> None:
    try:
        tracker.client.delete_logged_model(model_id)
    except MlflowException as error:
        if not says_absent(error):
            raise


def _files_of_run(run: Run, uri: str) -> StoredFiles:
    return StoredFiles(location=run.info.artifact_uri, tracking_uri=uri, kept=_KEPT_ARTIFACTS)


def _runs_of(tracker: Tracker, version: ModelVersion) -> Iterator[Run]:
    """Yield the runs that nothing but this version needs the artifacts of."""
    if not version.run_id:
        return
    run = tracker.find_run_or_trash(version.run_id)
    if run is None:
        return

    yield run
    yield from tracker.children(version.run_id)
    parent_id = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    parent = tracker.find_run(parent_id) if parent_id else None
    # A sweep is above its jobs, but isn't a training.
    if parent is None or TRAINING_RUN_TAG not in parent.data.tags:
        return
    siblings = [child.info.run_id for child in tracker.children(parent.info.run_id)]
    of_siblings = "run_id IN ({})".format(", ".join(f"'{sibling}'" for sibling in siblings))
    versions = tracker.client.search_model_versions(of_siblings) if siblings else []
    others = [other for other in versions if other.run_id != version.run_id]
    if not others:
        yield parent
