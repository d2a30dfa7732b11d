"""Full disks: a command ends with one line, and works once there is room again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.conftest import Overrides
from tests.faults.test_kills import check_nothing_is_left, check_root_loads

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# A disk of its own, in a namespace that ends with the shell: nothing is mounted for others. First it
# is filled but for some kilobytes, then the file that fills it goes.
SCRIPT = """
set -eu
mkdir -p "$DISK"
cp -a "$DISK" "$DISK.before"
mount -t tmpfs -o size=64m tmpfs "$DISK"
cp -a "$DISK.before/." "$DISK"
dd if=/dev/zero of="$DISK/filler" bs=1k 2>/dev/null || true
truncate -s "-${ROOM}k" "$DISK/filler"
set +e
"$@" >"$FOLDER/full.txt" 2>&1
echo $? >"$FOLDER/full.code"
rm "$DISK/filler"
"$@" >"$FOLDER/freed.txt" 2>&1
echo $? >"$FOLDER/freed.code"
cp -a "$DISK/." "$DISK.before"
"""


def can_mount() -> bool:
    """Tell whether this user can make a disk in a namespace of its own."""
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs Linux with user namespaces")
@pytest.mark.parametrize("room", [8, 200])
@pytest.mark.parametrize(
    "disk", ["models", "mlartifacts", "training_output", "temporary", ".cache"], ids=str
)
def test_a_training_on_a_full_disk_ends_in_one_line_and_works_after_it(
    project: Path, overrides: Overrides, disk: str, room: int
) -> None:
    environment = {
        **os.environ,
        "DISK": str(project / disk),
        "FOLDER": str(project),
        "ROOM": str(room),
        "TMPDIR": str(project / "temporary"),
        "TUNETRAIL_CACHE": str(project / ".cache"),
        "TUNETRAIL_HOME": str(project),
    }
    (project / "temporary").mkdir(exist_ok=True)
    train = [sys.executable, "-m", "tunetrail", "train", *overrides("seed=1")]
    shell = ["unshare", "--map-root-user", "--mount", "bash", "-c", SCRIPT, "bash", *train]

    subprocess.run(shell, cwd=project, env=environment, check=True, timeout=800)

    full, freed = (int((project / f"{name}.code").read_text()) for name in ("full", "freed"))
    printed = (project / "full.txt").read_text()
    # Room for what it writes there is no fault, and neither is a cache that can't grow.
    assert full in (0, 1, 2), printed
    if full:
        error = printed.splitlines()[-1]
        assert (
            error.startswith("error: ") and "unexpected" not in error and "Traceback" not in printed
        )
        assert str(project / disk) in error or disk in error, error
        assert error.count("Errno") <= 1, error
    assert full == 0 or disk != ".cache", printed
    assert freed == 0, (project / "freed.txt").read_text()
    before = project / f"{disk}.before"
    shutil.rmtree(project / disk, ignore_errors=True)
    before.rename(project / disk)
    # A training that a full disk didn't stop has promoted a version of its own.
    check_root_loads(project, versions=("1", "2", "3"))
    check_nothing_is_left(project, ends=["failed"])
