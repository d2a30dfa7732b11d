"""The model directory: `model_dir/<model type>/root` is always one whole model that the usual libraries load.

`root` is a link that is replaced in one step; readers see the old model or the new one, never a mixture.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tunetrail.errors import DeploymentError

KEPT = 2
"""Exported versions kept: the root and the one before it."""


def export_root(model_dir: Path, model_type: str, version: str, save: Callable[[Path], None]) -> Path:
    """Write a version with `save` and let `root` point at it.

    Args:
        model_dir: Folder of all exported models.
        model_type: `embedding` or `llm`.
        version: The version's number.
        save: Writes the model into the folder that it is given.

    Returns:
        The path of `root`.

    Raises:
        DeploymentError: The folder can't be written; `root` is as it was.
    """
    folder = model_dir / model_type
    work: Path | None = None
    try:
        versions = folder / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".writing-", dir=versions))
        save(work / "model")
        target = versions / version
        if target.exists():
            os.replace(target, work / "replaced")
        os.replace(work / "model", target)
        link = work / "root"
        link.symlink_to(Path("versions") / version)
        os.replace(link, folder / "root")
        _remove_old(versions, keep=version)
    except OSError as error:
        raise DeploymentError(
            f"model_dir {model_dir} can't be written: {error}. Free some space or name another folder."
        ) from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
    return folder / "root"


def _remove_old(versions: Path, keep: str) -> None:
    numbered = sorted((each for each in versions.iterdir() if each.name.isdigit()), key=lambda each: int(each.name))
    for old in [each for each in numbered if each.name != keep][: -(KEPT - 1)]:
        shutil.rmtree(old)
