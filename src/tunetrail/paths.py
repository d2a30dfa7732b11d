"""Where tunetrail's own files lie: conf/ and experiments/ in the package (a wheel) or at the checkout's root."""

import os
from pathlib import Path

from tunetrail.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parents[1] / name


def conf_dir() -> Path:
    """Return the folder of Hydra groups with train.yaml in it."""
    return _shipped("conf")


def experiments_dir() -> Path:
    """Return the folder of the experiments that come with tunetrail."""
    return _shipped("experiments")


def cache_dir() -> Path:
    """Return the folder for converted models: $TUNETRAIL_CACHE, else `tunetrail` in the user's cache folder."""
    own = os.environ.get("TUNETRAIL_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunetrail"


def made_folder(folder: Path) -> Path:
    """Make a folder for results and return it; raises `ConfigError` where that can't be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"output_dir must be a folder that can be written, got {str(folder)!r}: {error.strerror}. Name another one."
        ) from error
    return folder
