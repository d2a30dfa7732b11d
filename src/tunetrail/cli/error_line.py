"""What the terminal says about an error, in one line."""

import errno
import os
from pathlib import Path

from tunetrail.errors import FREE_SPACE, TunetrailError, first_reason, has_room, is_disk_full
from tunetrail.paths import cache_dir


def error_line(error: Exception) -> str:
    """Return what the terminal says about an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    full_disk = _full_disk_error(error)
    if isinstance(error, TunetrailError):
        # Notes tell what failed in addition, such as marking the run as failed in MLflow.
        sentences = [" ".join(lines), *getattr(error, "__notes__", [])]
        is_named = getattr(full_disk, "filename", None) is not None
        places = "" if full_disk is None or is_named else _full_places()
        if places:
            sentences.append(f"The disk is full: {places}.")
        ended = [sentence.rstrip(".") for sentence in sentences]
        return "error: " + (". ".join(ended) + "." if len(ended) > 1 else sentences[0])

    reason, file = None, None
    if isinstance(error, OSError):
        # If there are two files, the second is the target of a move.
        reason, file = error.strerror, error.filename2 or error.filename
    if full_disk is not None:
        reason, file = reason or os.strerror(errno.ENOSPC), file or _full_places()
    if reason:
        named = f": {file}" if file else ""
        advice = "" if full_disk is None else f". {FREE_SPACE}"
        return f"error: {reason}{named}{advice}"

    first_line = first_reason(error) if isinstance(error, OSError) else next(iter(lines), "")
    return f"error: unexpected {type(error).__name__}: {first_line} (--debug shows where)"


def _full_disk_error(error: BaseException | None) -> BaseException | None:
    """Return the error of a full disk that an error comes from; None if it doesn't."""
    while error is not None:
        # An error of tunetrail quotes the one that it comes from.
        if not isinstance(error, TunetrailError) and is_disk_full(error):
            return error
        error = error.__cause__
    return None


def _full_places() -> str:
    """Return which folders that commands use are on a full disk, and other full disks; or ''."""
    # Imported only here: help appears at once without it.
    import tempfile

    places = {
        "the temporary folder": Path(tempfile.gettempdir()),
        "the working folder": Path.cwd(),
        "the cache": cache_dir(),
    }
    full = []
    for name, folder in places.items():
        if folder.exists() and not has_room(folder):
            full.append(f"{name} {folder}")
    # Models, artifacts and checkpoints may each have a disk of their own.
    full = full or [str(folder) for folder in _mount_points() if not has_room(folder)]
    return " and ".join(full)


def _mount_points() -> list[Path]:
    """Return where disks that can be written are mounted."""
    import psutil

    partitions = psutil.disk_partitions(all=True)
    folders = [Path(part.mountpoint) for part in partitions if "ro" not in part.opts.split(",")]
    return [folder for folder in folders if folder.is_dir() and os.access(folder, os.W_OK)]
