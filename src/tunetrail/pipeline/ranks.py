"""Train the model of a job in a process for each device, and say in one line what went wrong.

The processes, on this machine or on a Ray cluster, run `tunetrail.pipeline.worker`. They and this
process talk by files in the job's folder:

metrics.jsonl        the metrics of rank 0, one report per line
passed-on.json       how many bytes of them this process has passed on
failure.RANK.json    why a rank has ended
recovery.json        what the ranks change because the memory of one was full
ranks/               the output of all ranks except the first; on Ray, of the first as well
stop                 asks the ranks on Ray to stop, which signals don't reach
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunetrail import errors
from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import TrainingError
from tunetrail.learning import ray_workers
from tunetrail.learning.devices import device_count
from tunetrail.learning.nodes.first_node import first_node, ranks_of_all_nodes
from tunetrail.learning.nodes.following_node import follow_first_node
from tunetrail.learning.nodes.node import check_nodes, this_node
from tunetrail.learning.recovery.failures import FullMemoryError, Recovery
from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.learning.workers import RankGroup, RanksFailedError, run_ranks
from tunetrail.pipeline.run_files import write_json

METRICS, STOP = "metrics.jsonl", "stop"
_PASSED_ON = "passed-on.json"
OUTPUT, _RECOVERY = "ranks", "recovery.json"
_WORKER = "tunetrail.pipeline.worker"
STOPPED = ("SIGTERMException", "KeyboardInterrupt", "SystemExit")
"""What a rank raises that was asked to stop."""


def failure_file(folder: Path, rank: int) -> Path:
    """Return the file in which a rank writes why it has ended."""
    return folder / f"failure.{rank}.json"


def recovery_of_job(folder: Path) -> Recovery | None:
    """Return what the ranks change because of a full memory; None if nothing.

    Raises:
        TrainingError: Another version of tunetrail wrote it.
    """
    path = folder / _RECOVERY
    if not path.exists():
        return None
    return Recovery.from_dict(json.loads(path.read_text(encoding="utf-8")), path)


def rank_count(trainer: TrainerConfig) -> int:
    """Return the number of ranks of a training.

    Raises:
        ConfigError: This machine, or the Ray cluster, has fewer devices.
    """
    check_nodes(trainer)
    if trainer.num_nodes > 1:
        return ranks_of_all_nodes(trainer)
    if trainer.launcher == "ray":
        return ray_workers.worker_count(trainer)
    return device_count(trainer)


def output_file(folder: Path, rank: int) -> Path:
    """Return the file for what a rank prints that doesn't own the terminal."""
    return folder / OUTPUT / f"{rank}.log"


def fit_by_ranks(folder: Path, trainer: TrainerConfig, on_metrics: MetricsSink) -> None:
    """Train the model of a job, in smaller pieces if the memory of a rank is full.

    Args:
        folder: The job.
        trainer: The devices, each of which gets a rank, and who starts the ranks.
        on_metrics: Receives the metrics of rank 0, in this process.

    Raises:
        TunetrailError: The error of the rank that failed first.
        KeyboardInterrupt: SIGINT came; the ranks have written a checkpoint.
        SIGTERMException: The same of SIGTERM.
    """
    pass_on = _passing_on(folder / METRICS, on_metrics)
    launch = _launch_on_ray if trainer.launcher == "ray" else _launch_here
    if trainer.num_nodes > 1:
        launch = _launch_on_nodes
    while True:
        for path in (*folder.glob("failure.*.json"), folder / STOP):
            path.unlink(missing_ok=True)
        try:
            launch(folder, trainer, pass_on)
            return
        except RanksFailedError as error:
            failure = _first_failure(folder, error, trainer)

        # What else a recovery changes, the ranks do by themselves and keep in their checkpoint.
        recovery = recovery_of_job(folder) or Recovery()
        write_json(asdict(recovery.after_full_memory(failure)), folder / _RECOVERY)


def _launch_here(folder: Path, trainer: TrainerConfig, on_poll: Callable[[], None]) -> None:
    _run_here(folder, RankGroup(device_count(trainer)), on_poll)


def _run_here(folder: Path, group: RankGroup, on_poll: Callable[[], None]) -> None:
    output = folder / OUTPUT
    run_ranks(_WORKER, [str(folder)], group, output, on_poll)


def _launch_on_nodes(folder: Path, trainer: TrainerConfig, on_poll: Callable[[], None]) -> None:
    def run_here(group: RankGroup, raise_failures: Callable[[], None]) -> None:
        def poll() -> None:
            on_poll()
            raise_failures()

        _run_here(folder, group, poll)

    first_node(trainer).run(folder, device_count(trainer), run_here)


def follows_first_node(trainer: TrainerConfig) -> bool:
    """Run the ranks of this node until node 0 ends, unless this process is node 0 or the only one.

    Returns:
        Whether this node has run ranks for node 0, so that nothing is left to do.
    """
    node = this_node()
    if node is None or node.number == 0:
        return False
    follow_first_node(node, trainer, _run_here)
    return True


def _launch_on_ray(folder: Path, trainer: TrainerConfig, on_poll: Callable[[], None]) -> None:
    # Only now: this module is what a rank imports, and it must not import the rank's.
    from tunetrail.pipeline.worker import fit_on_ray

    log = output_file(folder, rank=0)
    log.unlink(missing_ok=True)
    written = _NewLines(log)

    def poll() -> None:
        for line in written.read():
            sys.stderr.write(f"{line.decode(errors='replace')}\n")
        on_poll()

    # The workers are started in other folders, on whatever machine.
    arguments = {"folder": str(folder.resolve()), "working_folder": os.getcwd()}
    ray_workers.run_on_ray(
        fit_on_ray, arguments, trainer, folder / OUTPUT, poll, (folder / STOP).touch
    )


class _NewLines:
    """Reads what another process appends to a file, from a position in it."""

    def __init__(self, path: Path, position: int = 0) -> None:
        self.path = path
        self.position = position

    def read(self) -> list[bytes]:
        """Return the lines that were written since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.position)
            written = file.read()

        # The last line may be unfinished.
        whole_lines = written[: written.rfind(b"\n") + 1]
        self.position += len(whole_lines)
        return whole_lines.splitlines()


def _passing_on(path: Path, on_metrics: MetricsSink) -> Callable[[], None]:
    """Return a function that passes on the metrics that were written since its last call.

    If this process is killed, the ranks still finish their step and report it: the process that
    resumes the training passes that on first.
    """
    passed_on = path.with_name(_PASSED_ON)
    position = json.loads(passed_on.read_text()) if passed_on.exists() else 0
    written = _NewLines(path, position)

    def pass_on() -> None:
        lines = written.read()
        for line in lines:
            report = json.loads(line)
            on_metrics(report["metrics"], report["step"])
        if lines:
            write_json(written.position, passed_on)

    return pass_on


def _first_failure(
    folder: Path, error: RanksFailedError, trainer: TrainerConfig
) -> FullMemoryError:
    """Return the failure after which the ranks can go on.

    Raises:
        TunetrailError: They can't.
    """
    _raise_absence(folder, trainer)

    # A killed rank says nothing, and its neighbours fail in an exchange that can't complete.
    for rank, code in error.exit_codes.items():
        was_killed = code < 0 and code != -signal.SIGTERM
        if was_killed and not failure_file(folder, rank).exists():
            advice = f"The output of the ranks is in {folder / OUTPUT}."
            if -code == signal.SIGKILL:
                advice = (
                    "If the system did so because its memory was full, lower training.batch_size; "
                    "otherwise continue with tunetrail resume."
                )
            raise TrainingError(
                f"rank {rank} was killed by {signal.Signals(-code).name}, and the other ranks were "
                f"stopped. {advice}"
            )

    rank, failure = _earliest(folder, error)
    if failure["kind"] == FullMemoryError.__name__:
        return FullMemoryError(
            mini_batch_size=failure["mini_batch_size"],
            rows=failure["rows"],
            cuts_itself=failure["cuts_itself"],
        )

    kind = getattr(errors, failure["kind"], None)
    if kind is not None:
        raise kind(failure["message"])
    first_line = next(iter(failure["message"].splitlines()), "")
    raise TrainingError(
        f"rank {rank} failed: {failure['kind']}: {first_line} (the output of the ranks is in "
        f"{folder / OUTPUT})"
    )


def _raise_absence(folder: Path, trainer: TrainerConfig) -> None:
    """Raise `TrainingError` if ranks have waited in vain for another that took no part."""
    failures = _failures(folder)
    waiting = [failure for failure in failures.values() if failure["timed_out"]]
    if not waiting:
        return

    # A rank that waited has reported it; a rank that hangs was killed before it could.
    ranks = waiting[0]["ranks"]
    absent = [rank for rank in range(ranks) if rank not in failures]
    if absent:
        node = absent[0] // (ranks // trainer.num_nodes)
        of_node = f" (node {node})" if trainer.num_nodes > 1 else ""
        raise TrainingError(
            f"rank {absent[0]}{of_node} took no part in an exchange for "
            f"{trainer.exchange_timeout_minutes:g} minutes, and all ranks were stopped. It hangs, "
            "or its machine does: continue with tunetrail resume. If it only was busy, raise "
            "trainer.exchange_timeout_minutes."
        )


def _failures(folder: Path) -> dict[int, Mapping[str, Any]]:
    """Return what each rank wrote that has failed."""
    failures = {}
    for path in folder.glob("failure.*.json"):
        rank = int(path.name.split(".")[1])
        failures[rank] = json.loads(path.read_text(encoding="utf-8"))
    return failures


def _earliest(folder: Path, error: RanksFailedError) -> tuple[int, Mapping[str, Any]]:
    """Return the rank that failed first, and what it wrote: the others may have failed with it."""
    failures = []
    for rank, failure in _failures(folder).items():
        if rank in error.exit_codes:
            was_stopped = failure["kind"] in STOPPED
            failures.append((was_stopped, failure["at"], rank, failure))

    if not failures:
        raise TrainingError(f"the ranks ended with {error}; their output is in {folder / OUTPUT}.")
    _, _, rank, failure = min(failures, key=lambda entry: entry[:3])
    return rank, failure
