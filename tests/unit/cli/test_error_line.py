import errno
import shutil
import tempfile
from collections import namedtuple
from pathlib import Path

import psutil
import pytest

from tunetrail.cli.error_line import error_line
from tunetrail.errors import ConfigError, DeploymentError, TrackingError

ADVICE = "Free some space and run the same command again."
DiskUsage = namedtuple("DiskUsage", "total used free")
Partition = namedtuple("Partition", "mountpoint opts")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("seed must be\nan integer"), "error: seed must be an integer"),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "error: Permission denied: a"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            f"error: No space left on device: /data/x. {ADVICE}",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "/data/x"),
            f"error: Disk quota exceeded: /data/x. {ADVICE}",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x", None, "/data/y"),
            f"error: No space left on device: /data/y. {ADVICE}",
        ),
        (KeyError("x"), "error: unexpected KeyError: 'x' (--debug shows where)"),
    ],
)
def test_an_error_is_one_line(error: Exception, line: str) -> None:
    assert error_line(error) == line


def test_a_full_disk_that_no_error_names_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, real = tmp_path / "full", shutil.disk_usage

    def usage(folder: Path) -> object:
        return DiskUsage(10, 10, 0) if Path(folder) == full else real(folder)

    full.mkdir()
    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    error = OSError(errno.ENOSPC, "No space left on device")

    assert error_line(error) == (
        f"error: No space left on device: the temporary folder {full}. {ADVICE}"
    )
    # Libraries that are written in Rust keep only the words.
    foreign = RuntimeError("Error while serializing: I/O error: No space left on device (28)")
    assert error_line(foreign) == error_line(error)
    quoting = DeploymentError(f"models:/a/1 can't be loaded: {foreign}. {ADVICE}")
    quoting.__cause__ = foreign
    assert error_line(quoting) == (
        f"error: {quoting!s} The disk is full: the temporary folder {full}."
    )
    wrapped = TrackingError("MLflow store x failed: no space")
    wrapped.__cause__ = error
    wrapped.add_note("The run could not be marked as failed.")
    assert error_line(wrapped) == (
        "error: MLflow store x failed: no space. The run could not be marked as failed. "
        f"The disk is full: the temporary folder {full}."
    )

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: [])
    assert error_line(error) == f"error: No space left on device. {ADVICE}"
    mounted = [Partition(str(tmp_path), "rw,relatime"), Partition(str(full), "rw")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounted)
    assert error_line(error) == f"error: No space left on device: {full}. {ADVICE}"
