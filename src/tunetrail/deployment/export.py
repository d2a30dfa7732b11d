"""The model directory: `model_dir/<model type>/root` is always one complete model.

`root` is a link that is replaced in one step: readers see the old model or the new one, never a
mixture.
"""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from safetensors import SafetensorError

from tunetrail.deployment.digests import digest_folder, write_listing
from tunetrail.errors import ConfigError, DeploymentError, first_reason, not_writable
from tunetrail.paths import give_usual_modes
from tunetrail.scratch import scratch_folder, scratch_prefix

logger = logging.getLogger(__name__)

EXPORTED_VERSIONS = 2
"""Number of exported versions that stay: the root and the version before it."""


def check_model_dir(model_dir: Path, model_types: Collection[str]) -> None:
    """Make the model directory, and check that a model of each type could be exported to it.

    Raises:
        ConfigError: It can't be written, or something else has the name of a `root` link.
    """
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        # Only an attempt shows it: modes say nothing of read-only file systems, or to root.
        with scratch_folder(".writing-", model_dir):
            pass
    except OSError as error:
        raise not_writable("model_dir", model_dir, error) from error

    for model_type in model_types:
        root = model_dir / model_type / "root"
        if root.exists() and not root.is_symlink():
            raise ConfigError(
                f"model_dir must be a folder in which {model_type}/root is a link of tunetrail's, "
                f"got {str(model_dir)!r} with something else there. Move it away "
                f"(mv {root} {root}-before), or name another folder."
            )


@contextlib.contextmanager
def staged_root(
    model_dir: Path, model_type: str, save: Callable[[Path], None]
) -> Iterator[Callable[[str], Path]]:
    """Write a model next to `root`, and yield a function that makes `root` point at it.

    The function takes the number of the version and returns the path of `root`. Writing comes
    first, so that a full disk is noticed before the registry's alias moves; pointing is a single
    rename.

    Args:
        model_dir: Folder of all exported models.
        model_type: `embedding` or `llm`.
        save: Writes the model to the folder that it is given.

    Raises:
        DeploymentError: The folder can't be written; `root` is unchanged, and nothing else is left.
    """
    versions = model_dir / model_type / "versions"
    with contextlib.ExitStack() as stack:
        with _naming_model_dir(model_dir):
            versions.mkdir(parents=True, exist_ok=True)
            # Next to the versions, since a rename can't cross file systems.
            prefix = scratch_prefix(".writing-")
            staging = Path(tempfile.mkdtemp(prefix=prefix, dir=versions))
            stack.callback(shutil.rmtree, staging, ignore_errors=True)
            save(staging / "model")
            give_usual_modes(staging / "model")
            write_listing(digest_folder(staging / "model"), staging / "model")

        yield lambda version: _point_root(staging, versions, version)


def _point_root(staging: Path, versions: Path, version: str) -> Path:
    """Move the staged model to its version's folder, and replace the link `root`."""
    root = versions.parent / "root"
    with _naming_model_dir(versions.parents[1]):
        target = versions / version
        # An interrupted attempt may have exported this version; no rename replaces a full folder.
        if target.exists():
            os.replace(target, staging / "replaced")
        os.replace(staging / "model", target)
        _replace_link(staging, root, version)
    _remove_old_versions(versions, current=version)
    return root


def _replace_link(staging: Path, root: Path, version: str) -> None:
    """Let `root` point at a version's folder in one step."""
    # A link can't be changed in place, but a new one can take its name.
    link = staging / "root"
    # Relative, so that the model directory can be moved or mounted elsewhere.
    link.symlink_to(Path("versions") / version)
    os.replace(link, root)


def restore_root(
    model_dir: Path, model_type: str, version: str | None, save: Callable[[Path], None]
) -> bool:
    """Let `root` be a version's model, or nothing; return False if it was that already.

    Args:
        model_dir: Folder of all exported models.
        model_type: Name of the registered model.
        version: The version that is root; None if there is none.
        save: Writes the version's model, if its folder isn't there any more.

    Raises:
        DeploymentError: The folder can't be written; `root` is unchanged.
    """
    root, versions = exported_root(model_dir, model_type), model_dir / model_type / "versions"
    if version is None:
        was_there = root.is_symlink()
        with _naming_model_dir(model_dir):
            root.unlink(missing_ok=True)
        return was_there

    target = versions / version
    if exported_version(model_dir, model_type) == version and target.is_dir():
        return False
    if not target.is_dir():
        with staged_root(model_dir, model_type, save) as point_root:
            point_root(version)
        return True

    with _naming_model_dir(model_dir), scratch_folder(".writing-", versions) as staging:
        _replace_link(staging, root, version)
    _remove_old_versions(versions, current=version)
    return True


def exported_root(model_dir: Path, model_type: str) -> Path:
    """Return the path at which the root of a model is exported."""
    return model_dir / model_type / "root"


def exported_version(model_dir: Path, model_type: str) -> str | None:
    """Return the version that is exported as root; None if there is none."""
    root = exported_root(model_dir, model_type)
    return root.readlink().name if root.is_symlink() else None


@contextlib.contextmanager
def _naming_model_dir(model_dir: Path) -> Iterator[None]:
    """Turn errors of writing into a `DeploymentError` that names the folder."""
    try:
        yield
    # safetensors reports a full disk by an error of its own, which is no OSError.
    except (OSError, SafetensorError) as error:
        raise DeploymentError(
            f"model_dir {model_dir} can't be written: {first_reason(error)}. "
            "Free some space or name another folder."
        ) from error


def _remove_old_versions(versions: Path, current: str) -> None:
    """Remove all but the newest exported versions; what can't be removed fails nothing."""
    # Only version folders: a folder of another process that is still writing stays.
    folders = [folder for folder in versions.iterdir() if folder.name.isdigit()]
    earlier = sorted(int(folder.name) for folder in folders if folder.name != current)
    # The current version takes one of the places.
    for version in earlier[: -(EXPORTED_VERSIONS - 1)]:
        folder = versions / str(version)
        try:
            if folder.is_symlink():
                folder.unlink()
                continue
            # Renamed first: a rollback must not find a version that is half removed.
            with scratch_folder(".removing-", versions) as scratch:
                os.replace(folder, scratch / folder.name)
        except OSError as error:
            logger.warning("the exported version %s can't be removed: %s", folder, error)
