"""A SLURM cluster of two nodes on this machine, for tests: its daemons, without a service of the system."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tunetrail.learning.workers import free_port

DAEMONS = ("munged", "slurmctld", "slurmd")
"""What has to be installed; on Debian `apt-get install slurm-wlm munge`."""
_SECONDS = 150
"""How long the daemons may take to come up, and jobs to end: longer than `KillWait`."""

_CONFIGURATION = """
ClusterName=tunetrail
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=120
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 Port={first_port} CPUs=2
NodeName={second} NodeHostname={host} NodeAddr=127.0.0.1 Port={second_port} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def slurm_cluster() -> Iterator[Mapping[str, str]]:
    """Run a cluster of two nodes; yield the environment in which its commands find it."""
    # The names of sockets have to be short, and munge demands that everybody can reach them.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o711)
    host = socket.gethostname().partition(".")[0]
    nodes = [host, f"{host}-second"]
    environment = {**os.environ, "SLURM_CONF": str(_write_configuration(folder, nodes))}

    daemons = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", node] for node in nodes)]
    processes = [_start(_munge_command(folder), environment, folder)]
    try:
        _wait_until((folder / "munge.socket").exists, folder)
        processes += [_start(daemon, environment, folder) for daemon in daemons]
        _wait_until(lambda: _idle_nodes(environment) == set(nodes), folder)
        try:
            yield environment
        finally:
            # What a failed test has left would outlive the daemons.
            _cancel_all_jobs(environment, folder)
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=_SECONDS)
        shutil.rmtree(folder, ignore_errors=True)


def _write_configuration(folder: Path, nodes: list[str]) -> Path:
    (folder / "state").mkdir()
    path = folder / "slurm.conf"
    path.write_text(
        _CONFIGURATION.format(
            host=nodes[0],
            second=nodes[1],
            user=getpass.getuser(),
            folder=folder,
            controller_port=free_port(),
            first_port=free_port(),
            second_port=free_port(),
        )
    )
    return path


def _munge_command(folder: Path) -> list[str]:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")]
    return ["munged", "--foreground", f"--socket={folder}/munge.socket", *files]


def _start(
    command: list[str], environment: Mapping[str, str], folder: Path
) -> "subprocess.Popen[bytes]":
    with open(folder / "daemons.log", "ab") as log:
        return subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log)


def _cancel_all_jobs(environment: Mapping[str, str], folder: Path) -> None:
    subprocess.run(["scancel", "--me"], env=dict(environment), check=True)
    _wait_until(lambda: _printed(["squeue", "--noheader"], environment) == "", folder)


def _idle_nodes(environment: Mapping[str, str]) -> set[str]:
    command = ["sinfo", "--noheader", "--Node", "--states=idle", "--format=%N"]
    return set(_printed(command, environment).split())


def _printed(command: list[str], environment: Mapping[str, str]) -> str:
    return subprocess.run(
        command, env=dict(environment), stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def _wait_until(is_ready: Callable[[], bool], folder: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while not is_ready():
        assert time.monotonic() < deadline, "\n".join(
            path.read_text() for path in folder.glob("*.log")
        )
        time.sleep(0.2)
