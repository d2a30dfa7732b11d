"""What the terminal says about an error, in one line."""

import errno
from pathlib import Path

from tunetrail.errors import TunetrailError, first_reason
from tunetrail.paths import cache_dir

_FULL_BYTES = 2**20
"""Free bytes of a disk below which it counts as full."""


def error_line(error: Exception) -> str:
    """Return what the terminal says about an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, TunetrailError):
        # Notes tell what failed in addition, such as marking the run as failed in MLflow.
        return "error: " + " ".join([*lines, *getattr(error, "__notes__", [])])

    if isinstance(error, OSError) and error.strerror:
        # If there are two files, the second is the target of a move.
        file = error.filename2 or error.filename
        if error.errno == errno.ENOSPC:
            file = file or _full_places()
        advice = ". Free some space and run the same command again."
        named = f": {file}" if file else ""
        return f"error: {error.strerror}{named}{advice if error.errno == errno.ENOSPC else ''}"

    first_line = first_reason(error) if isinstance(error, OSError) else next(iter(lines), "")
    return f"error: unexpected {type(error).__name__}: {first_line} (--debug shows where)"


def _full_places() -> str:
    """Return which folders that every command uses are on a full disk; empty if none is."""
    # Imported only here: help appears at once without them.
    import shutil
    import tempfile

    places = {
        "the temporary folder": Path(tempfile.gettempdir()),
        "the working folder": Path.cwd(),
        "the cache": cache_dir(),
    }
    full = [
        f"{name} {folder}"
        for name, folder in places.items()
        if folder.exists() and shutil.disk_usage(folder).free < _FULL_BYTES
    ]
    return " and ".join(full)
