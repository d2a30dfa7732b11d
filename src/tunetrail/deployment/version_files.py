"""The files of a version: copied into a private folder, and compared with those registered.

The copy comes first: files that are compared in the store could be swapped before they are loaded.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow.artifacts
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
from safetensors import SafetensorError

from tunetrail.deployment.digests import digest_folder, digest_of, read_listing
from tunetrail.errors import (
    FREE_SPACE,
    DeploymentError,
    ModelError,
    first_reason,
    is_disk_full,
)
from tunetrail.learning.models.folders import check_plain_files
from tunetrail.scratch import scratch_folder

# Folders in which MLflow's flavors keep what the usual libraries load as one plain folder.
_MODEL_FOLDERS = ("model.sentence_transformer", "model", "components/tokenizer")
# Pages that MLflow's libraries write on their own next to the model.
_PAGES = ("README.md",)


@contextlib.contextmanager
def copied_files(location: str, tracking_uri: str) -> Iterator[Path]:
    """Copy a model's files from the artifact store, and yield the folder of the copy.

    Args:
        location: URI of the folder in the artifact store.
        tracking_uri: The MLflow store that the artifacts belong to.

    Raises:
        ModelError: The folder has links in it, which could lead out of it.
    """
    repository = get_artifact_repository(location, tracking_uri=tracking_uri)
    if isinstance(repository, LocalArtifactRepository):
        check_plain_files(Path(repository.artifact_dir))

    # Only its owner can read or replace what is in it.
    with scratch_folder() as folder:
        copy = mlflow.artifacts.download_artifacts(
            artifact_uri=location,
            dst_path=str(folder),
            tracking_uri=tracking_uri,
            registry_uri=tracking_uri,
        )
        yield Path(copy)


@contextlib.contextmanager
def readable_files(location: str, tracking_uri: str) -> Iterator[Path]:
    """Yield the folder of a model's files to look at: in the store itself if it is on this machine.

    What is loaded has to be copied first, see `copied_files`.

    Args:
        location: URI of the folder in the artifact store.
        tracking_uri: The MLflow store that the artifacts belong to.

    Raises:
        ModelError: The folder has links in it, which could lead out of it.
        OSError: There is no such folder.
    """
    repository = get_artifact_repository(location, tracking_uri=tracking_uri)
    if not isinstance(repository, LocalArtifactRepository):
        with copied_files(location, tracking_uri) as folder:
            yield folder
        return

    folder = Path(repository.artifact_dir)
    check_plain_files(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    yield folder


@contextlib.contextmanager
def explaining_broken_files(name: str, uri: str) -> Iterator[None]:
    """Turn errors of reading a version into a `DeploymentError` that says what to do.

    Args:
        name: Name of the registered model.
        uri: What is read.
    """
    try:
        yield
    # Broken files raise whatever their readers stumble over.
    except (
        MlflowException, SafetensorError, ModelError, OSError, RuntimeError, ValueError
    ) as error:  # fmt: skip
        reason = " ".join(first_reason(error).split()).rstrip(".")
        advice = (
            "Restore its files, or make another version root: "
            f"`tunetrail root rollback {name} --reason ...`."
        )
        if is_disk_full(error):
            advice = FREE_SPACE
        raise DeploymentError(f"{uri} can't be loaded: {reason}. {advice}") from error


def check_digest(folder: Path, expected: str, uri: str) -> None:
    """Raise `DeploymentError` unless a version's files have the digest that was recorded.

    Args:
        folder: A copy of the files.
        expected: The digest that the version was registered with.
        uri: The version.
    """
    digests = digest_folder(folder)
    if digests.digest == expected:
        return

    # The list tells what has changed, unless it was changed as well.
    listing = read_listing(folder)
    is_original = listing is not None and digest_of(listing) == expected
    difference = digests.difference(listing) if listing and is_original else "their list as well"
    name = uri.removeprefix("models:/").rpartition("/")[0]
    raise DeploymentError(
        f"the files of {uri} must be those that were registered, got others ({difference}). "
        "Restore them from a backup, or make another version root: "
        f"`tunetrail root rollback {name} --reason ...`."
    )


def copy_model(files: Path, folder: Path, uri: str) -> None:
    """Copy a version's files into a plain folder, as the usual libraries load it.

    Args:
        files: The version's files.
        folder: The folder, which may exist already.
        uri: The version.

    Raises:
        DeploymentError: The files belong to an unknown flavor.
    """
    present = [files / name for name in _MODEL_FOLDERS if (files / name).is_dir()]
    if not present:
        raise DeploymentError(
            f"{uri} must have a model of a known flavor, got none of the folders "
            f"{', '.join(_MODEL_FOLDERS)}. Export it by hand."
        )
    for path in present:
        ignore = shutil.ignore_patterns(*_PAGES)
        shutil.copytree(path, folder, ignore=ignore, dirs_exist_ok=True)
