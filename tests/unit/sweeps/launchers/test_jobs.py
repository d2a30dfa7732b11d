import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tunetrail.sweeps.launchers.jobs import Job, JobProcess, run_in_process

pytestmark = pytest.mark.processes

ADDRESS = "postgresql+psycopg://u:pa55word@127.0.0.1:1/x"
LOGGING = {
    "verbose": False,
    "job_logging": {"version": 1, "root": {"level": "INFO", "handlers": []}},
}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job that fails soon: its configuration names no session."""
    return Job(
        number=3,
        name="seed=1",
        overrides=("seed=1",),
        settings={"session_id": "???", "database": {"url": ADDRESS}},
        logging=LOGGING,
        folder=str(tmp_path / "3"),
        log=str(tmp_path / "3" / "train.log"),
        working_folder=str(tmp_path),
        environment={"TUNETRAIL_CACHE": str(tmp_path / "cache")},
        driver=os.getpid(),
    )


def test_a_failed_job_says_why_and_has_a_private_log(job: Job) -> None:
    end = run_in_process(job)

    assert end.reason is not None and end.reason.startswith("session_id must be given")
    log = Path(job.log)
    assert end.reason in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700


def test_no_password_is_written_or_on_the_command_line(job: Job, tmp_path: Path) -> None:
    process = JobProcess(job)
    words = psutil.Process(process._process.pid).cmdline()
    process.wait()

    assert "tunetrail" in words and "pa55word" not in " ".join(words)
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert b"pa55word" not in path.read_bytes(), path


def test_a_killed_job_is_told_by_its_signal(job: Job) -> None:
    process = JobProcess(job)
    process.kill()
    reason = process.wait().reason
    assert reason == "killed by signal 9 (SIGKILL), perhaps since the memory was full"


def test_the_reason_is_of_this_attempt(job: Job) -> None:
    run_in_process(job)
    process = JobProcess(job)
    process.stop(signal.SIGTERM)
    assert "signal 15 (SIGTERM)" in str(process.wait().reason)


def test_a_job_without_a_name_is_called_by_its_number(job: Job) -> None:
    assert str(job) == "job 3 (seed=1)" and str(replace(job, name="")) == "job 3"


WORKER = """
import sys
from tunetrail.processes import end_with
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: (print("asked to stop", flush=True), os._exit(0)))
end_with(os.getppid(), int(sys.argv[1]))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_process_stops_when_its_driver_is_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as driver:
        command = [sys.executable, "-c", WORKER, str(driver.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
            time.sleep(1.5)
            assert worker.poll() is None
            # It stays in the table of processes until it is waited for, which is below.
            driver.kill()
            assert worker.stdout.readline() == "asked to stop\n"


def test_a_process_stops_at_once_if_its_driver_is_gone_already() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as driver:
        pass
    command = [sys.executable, "-c", WORKER, str(driver.pid)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.endswith("asked to stop\n")
