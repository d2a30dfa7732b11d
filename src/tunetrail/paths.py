"""Where tunetrail's own files lie: conf/ and experiments/ in the package (a wheel) or at the checkout's root."""

import os
from pathlib import Path

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
