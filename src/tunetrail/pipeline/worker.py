"""One rank of a training in several processes: `python -m tunetrail.pipeline.worker FOLDER`.

A worker of Ray Train calls `fit_on_ray` instead. A rank only fits: database, MLflow and registry
are touched by the process that has started it.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from tunetrail.errors import ConfigError
from tunetrail.learning.recovery.failures import FullMemoryError
from tunetrail.learning.recovery.signals import ask_to_stop
from tunetrail.learning.training.ranks import leave_the_ranks
from tunetrail.paths import private_file, write_private_text
from tunetrail.pipeline.jobs import TrainingJob, fit_as_rank, ignore_metrics, is_written
from tunetrail.pipeline.ranks import METRICS, STOP, STOPPED, failure_file, output_file
from tunetrail.processes import end_with

_POLL_SECONDS = 1.0


def main() -> None:
    """Fit the job of a folder as the rank that the environment names."""
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    if rank:
        # The terminal belongs to rank 0.
        _write_output_to(output_file(folder, rank))
    end_with(os.getppid())
    num_nodes = int(os.environ["WORLD_SIZE"]) // int(os.environ["LOCAL_WORLD_SIZE"])
    _fit(folder, rank, partial(fit_as_rank, num_nodes=num_nodes))


def fit_on_ray(arguments: Mapping[str, str]) -> None:
    """Fit the job of a folder as a worker of Ray Train, which has set the environment.

    Args:
        arguments: The `folder` of the job, and the `working_folder` of the process that has
            started the training.

    Raises:
        ConfigError: This machine doesn't see the folder, or the ranks can't be counted by machines.
        SystemExit: The training failed; a file of the folder says why.
    """
    folder, rank = Path(arguments["folder"]), int(os.environ["RANK"])
    if not is_written(folder):
        raise ConfigError(
            "output_dir must be a folder that all machines of the Ray cluster see under the same "
            f"path, got {folder}, which isn't on {socket.gethostname()}. "
            "Name a folder on shared storage."
        )
    if Path(arguments["working_folder"]).is_dir():
        os.chdir(arguments["working_folder"])

    ranks, ranks_here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if ranks % ranks_here:
        # Lightning counts the same number of devices on every machine.
        raise ConfigError(
            f"trainer.devices must be a multiple of the devices that Ray uses on each machine, got "
            f"{ranks} with {ranks_here} on {socket.gethostname()}. Set a multiple of {ranks_here}."
        )

    _write_output_to(output_file(folder, rank))
    # By this, Lightning knows that the processes are there already.
    os.environ["TORCHELASTIC_RUN_ID"] = folder.name
    os.environ["GROUP_RANK"] = os.environ["NODE_RANK"]
    if rank == 0:
        threading.Thread(target=_stop_if_asked, args=(folder / STOP,), daemon=True).start()
    fit = partial(
        fit_as_rank,
        trainer=replace(TrainingJob.read(folder).settings.trainer, devices=ranks_here),
        num_nodes=ranks // ranks_here,
    )
    try:
        _fit(folder, rank, fit)
    except SystemExit as end:
        # A rank that was asked to stop returns: Ray would kill the others, which may be saving.
        if type(end.__cause__).__name__ not in STOPPED:
            raise


def _fit(folder: Path, rank: int, fit: Callable[..., None]) -> None:
    """Fit the job, and write why that has failed if it has.

    Args:
        folder: The job.
        rank: The rank of this process.
        fit: `fit_as_rank`, with the devices if they aren't the job's.

    Raises:
        SystemExit: It has failed.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("tunetrail").setLevel(logging.INFO)

    def write_metrics(metrics: Mapping[str, float], step: int) -> None:
        with (folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "metrics": dict(metrics)}) + "\n")

    try:
        fit(folder, ignore_metrics if rank else write_metrics, is_first=not rank)
        leave_the_ranks()
    except BaseException as error:
        write_private_text(failure_file(folder, rank), json.dumps(_described(error)))
        raise SystemExit(1) from error


def _write_output_to(path: Path) -> None:
    """Write what this process prints to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with private_file(path).open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())


def _described(error: BaseException) -> dict[str, object]:
    described: dict[str, object] = {
        "at": time.time(),
        "kind": type(error).__name__,
        "message": str(error),
        # gloo and the store of the ranks say it in words only.
        "timed_out": "timed out" in str(error).lower(),
        "ranks": int(os.environ["WORLD_SIZE"]),
    }
    if isinstance(error, FullMemoryError):
        described |= vars(error)
    return described


def _stop_if_asked(path: Path) -> None:
    """Stop the training once a file asks for it; the ranks vote, so it's enough if one knows."""
    while not path.exists():
        time.sleep(_POLL_SECONDS)
    ask_to_stop()


if __name__ == "__main__":
    main()
