"""Paths: where tunetrail's own files lie, and how folders and private files are made."""

import os
from pathlib import Path

from tunetrail.errors import not_writable

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    # A wheel holds the folder within the package, a checkout at its root.
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parents[1] / name


def conf_dir() -> Path:
    """Return the folder of Hydra's groups, in which train.yaml is."""
    return _shipped("conf")


def experiments_dir() -> Path:
    """Return the folder of the experiments that come with tunetrail."""
    return _shipped("experiments")


def cache_dir() -> Path:
    """Return $TUNETRAIL_CACHE, or else the folder `tunetrail` in the user's cache folder."""
    configured = os.environ.get("TUNETRAIL_CACHE")
    if configured:
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunetrail"


def made_folder(folder: Path) -> Path:
    """Make the folder for results and return it.

    Raises:
        ConfigError: The folder can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_writable("output_dir", folder, error) from error
    return folder


def write_private_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 that only its owner can read, since it quotes samples."""
    # Before anything is in it.
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
