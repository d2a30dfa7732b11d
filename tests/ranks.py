"""Run a test's own file in several processes, the ranks of a training that talk through gloo."""

import os
import subprocess
import sys
from pathlib import Path

from tunetrail.learning.workers import free_port


def run_ranks(script: str, folder: Path, ranks: int = 2) -> None:
    """Run `python script folder` as ranks of one machine until all have succeeded."""
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        # As torch's launcher does: Lightning then leaves the processes as they are.
        "TORCHELASTIC_RUN_ID": "test",
    }
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(folder)],
            env={**os.environ, **common, **paths, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    try:
        outputs = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * ranks, "\n".join(outputs)
