"""The MLflow experiment of the runs: found or made, with the place of its artifacts."""

import importlib
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from tunetrail.config import TrackingConfig
from tunetrail.errors import ConfigError, first_line
from tunetrail.paths import private_folder, sqlite_file
from tunetrail.stores.tracking.moved_stores import FOLDER_TAG
from tunetrail.stores.tracking.tracking_errors import shown_uri
from tunetrail.stores.tracking.tracking_store import is_database

_DEFAULT_FOLDER = TrackingConfig().artifacts


def ensure_experiment(client: MlflowClient, config: TrackingConfig) -> str:
    """Return the id of the experiment, which is made if it doesn't exist.

    Raises:
        ConfigError: The experiment is in MLflow's trash, or keeps its artifacts elsewhere than
            `tracking.artifacts` says, or that is no place that MLflow can write to.
    """
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        location = _new_location(config)
        try:
            return _create(client, config, location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # A process of another machine has just made it.
            experiment = client.get_experiment_by_name(config.experiment)
            assert experiment is not None

    if experiment.lifecycle_stage != "active":
        raise ConfigError(
            f"tracking.experiment must be an active experiment, got {config.experiment!r}, which "
            "is in MLflow's trash. Restore it there, or name another tracking.experiment."
        )
    _check_location(config, experiment.artifact_location)
    return str(experiment.experiment_id)


def _create(client: MlflowClient, config: TrackingConfig, location: str | None) -> str:
    # MLflow's pages then show what belongs to training, not to chat applications.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    file = sqlite_file(config.uri)
    if file is not None:
        tags[FOLDER_TAG] = str(file.parent)
    return str(client.create_experiment(config.experiment, artifact_location=location, tags=tags))


def _new_location(config: TrackingConfig) -> str | None:
    """Return the URI of a new experiment's artifacts; None leaves the choice to the server."""
    if _is_uri(config.artifacts):
        _check_scheme(config.artifacts)
        return config.artifacts
    if is_database(config.uri):
        # Artifacts quote samples; everything of a run lies below this folder.
        return private_folder(_folder(config)).as_uri()

    if config.artifacts != _DEFAULT_FOLDER:
        raise ConfigError(
            "tracking.artifacts must be a URI such as s3://BUCKET/FOLDER for a server, got "
            f"{config.artifacts!r}. Leave it out: the server has a place of its own."
        )
    return None


def _check_scheme(uri: str) -> None:
    try:
        get_artifact_repository(uri)
        # Most kinds import their package here, but this one at the first file.
        if uri.startswith("s3:"):
            importlib.import_module("boto3")
    except (MlflowException, ImportError) as error:
        reason = shown_uri(first_line(error))
        raise ConfigError(
            "tracking.artifacts must be a folder, or a URI that MLflow can write to, got "
            f"{shown_uri(uri)!r}: {reason}"
        ) from error


def _check_location(config: TrackingConfig, location: str) -> None:
    """Raise `ConfigError` if the settings name a place other than the experiment's."""
    # The default is the folder of whoever reads, which says nothing about the writer's.
    if config.artifacts == _DEFAULT_FOLDER:
        return
    configured = config.artifacts if _is_uri(config.artifacts) else _folder(config).as_uri()
    # A resumed run has its configuration without the passwords.
    if shown_uri(configured).rstrip("/") != shown_uri(location).rstrip("/"):
        local = urlsplit(location)
        place = url2pathname(local.path) if local.scheme == "file" else location
        raise ConfigError(
            f"tracking.artifacts must be where the experiment {config.experiment!r} keeps its "
            f"artifacts, {shown_uri(place)!r}, got {shown_uri(config.artifacts)!r}. Leave it out, "
            "or name another tracking.experiment."
        )


def _folder(config: TrackingConfig) -> Path:
    return Path(config.artifacts).expanduser().resolve()


def _is_uri(artifacts: str) -> bool:
    return "://" in artifacts or artifacts.startswith("file:")
