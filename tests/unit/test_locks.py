import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tunetrail.locks import LockError, file_lock

HOLDER = """
import sys, pathlib
from tunetrail.locks import file_lock
with file_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
    pathlib.Path(sys.argv[2]).touch()
"""


def test_file_lock_waits_for_another_process_and_makes_its_folder(tmp_path: Path) -> None:
    lock, done = tmp_path / "new" / "x.lock", tmp_path / "done"
    command = [sys.executable, "-c", HOLDER, str(lock), str(done)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.stdin.write("go on\n")
        holder.stdin.flush()
        with file_lock(lock):
            assert done.exists()


def test_file_lock_is_free_after_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "x.lock"), str(tmp_path / "done")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        holder.kill()
    with file_lock(tmp_path / "x.lock"):
        assert not (tmp_path / "done").exists()


def test_file_lock_says_what_it_waits_for_and_gives_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "x.lock"
    monkeypatch.setenv("TUNETRAIL_LOCK_SECONDS", "1.2")
    command = [sys.executable, "-c", HOLDER, str(lock), str(tmp_path / "done")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"

        with (
            pytest.raises(LockError, match=f"held by process {holder.pid}") as late,
            file_lock(lock),
        ):
            pass

        assert late.value.exit_code == 1
        assert f"waiting for {lock}, held by process {holder.pid}" in caplog.text
        holder.kill()


def test_a_process_forked_meanwhile_does_not_keep_the_lock(tmp_path: Path) -> None:
    with file_lock(tmp_path / "lock"):
        child = os.fork()
        if child == 0:
            # Lives on with its copy of the open file.
            time.sleep(60)
            os._exit(0)

    try:
        with file_lock(tmp_path / "lock", most_seconds=5.0):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
