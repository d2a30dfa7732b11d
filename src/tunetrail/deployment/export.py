"""The model directory: `model_dir/<model type>/root` is always one whole model that the usual libraries load.

`root` is a link that is replaced in one step; readers see the old model or the new one, never a mixture.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from tunetrail.errors import DeploymentError

KEPT = 2
"""Exported versions kept: the root and the one before it."""


@contextlib.contextmanager
def staged_root(
    model_dir: Path, model_type: str, save: Callable[[Path], None]
) -> Iterator[Callable[[str], Path]]:
    """Write a model beside `root`; calling what is yielded, with the version's number, lets `root` point at it.

    Writing comes first, so that a full disk is found out before the registry's alias moves; pointing is one rename.

    Args:
        model_dir: Folder of all exported models.
        model_type: `embedding` or `llm`.
        save: Writes the model into the folder that it is given.

    Raises:
        DeploymentError: The folder can't be written; `root` is as it was, and nothing else is left.
    """
    versions = model_dir / model_type / "versions"
    work: Path | None = None
    try:
        with _readable_failures(model_dir):
            versions.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=".writing-", dir=versions))
            save(work / "model")
        staged = work
        yield lambda version: _point(staged, versions, version)
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _point(work: Path, versions: Path, version: str) -> Path:
    root = versions.parent / "root"
    with _readable_failures(versions.parents[1]):
        target = versions / version
        if target.exists():
            os.replace(target, work / "replaced")
        os.replace(work / "model", target)
        link = work / "root"
        link.symlink_to(Path("versions") / version)
        os.replace(link, root)
        _remove_old(versions, keep=version)
    return root


@contextlib.contextmanager
def _readable_failures(model_dir: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DeploymentError(
            f"model_dir {model_dir} can't be written: {error}. Free some space or name another folder."
        ) from error


def _remove_old(versions: Path, keep: str) -> None:
    numbered = sorted(
        (each for each in versions.iterdir() if each.name.isdigit()),
        key=lambda each: int(each.name),
    )
    for old in [each for each in numbered if each.name != keep][: -(KEPT - 1)]:
        shutil.rmtree(old)
