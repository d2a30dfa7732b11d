"""A node of a training that isn't the first: it runs its ranks for node 0, until node 0 ends."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import TrainingError
from tunetrail.learning.nodes.first_node_store import FirstNodeLostError, FirstNodeStore
from tunetrail.learning.nodes.node import Node, meeting_port
from tunetrail.learning.workers import RankGroup, RanksFailedError

_POLL_SECONDS = 0.2
_SUCCESS: dict[str, object] = {"exit_codes": {}}


def follow_first_node(
    node: Node,
    trainer: TrainerConfig,
    run_here: Callable[[Path, RankGroup, Callable[[], None]], None],
) -> None:
    """Run the ranks of this node, which isn't the first, for the jobs of node 0 until it ends.

    Args:
        node: This node.
        trainer: Its devices, and how long to wait for node 0.
        run_here: Runs ranks of the job of a folder; calls its last argument again and again.

    Raises:
        TrainingError: Node 0 didn't come or was lost during a job, or a rank of this node failed.
    """
    store = _connected(node, trainer)
    job, failed = 0, False
    while True:
        try:
            store.set(f"alive/{node.number}", "0")
            store.set(f"joined/{node.number}", socket.gethostname())
            while not store.has(f"job/{job}"):
                if store.has("end"):
                    store.set(f"left/{node.number}")
                    _raise_if(failed, node)
                    return
                time.sleep(_POLL_SECONDS)
            announced = json.loads(store.get(f"job/{job}"))
        except FirstNodeLostError:
            # Killed between two jobs, it can't say so any more.
            _raise_if(failed, node)
            return

        try:
            with store.signs_of_life(node.number):
                report = _run_job(store, node, job, announced, run_here)
            store.set(f"done/{job}/{node.number}", json.dumps(report))
            failed = report != _SUCCESS
        except FirstNodeLostError as lost:
            raise TrainingError(
                f"node {node.number}: node 0 ({node.address}) {lost} during the training, and the "
                "ranks of this node were stopped. Continue with tunetrail resume."
            ) from lost
        job += 1


def _raise_if(failed: bool, node: Node) -> None:
    if failed:
        raise TrainingError(
            f"node {node.number}: the training failed; node 0 ({node.address}) tells why."
        )


def _run_job(
    store: FirstNodeStore,
    node: Node,
    job: int,
    announced: Mapping[str, object],
    run_here: Callable[[Path, RankGroup, Callable[[], None]], None],
) -> dict[str, object]:
    """Run the ranks of a job on this node, and return the report on them."""
    folder, ranks = Path(str(announced["folder"])), int(str(announced["ranks"]))
    if not folder.is_dir():
        return {
            "error": "output_dir must be a folder that all nodes see under the same path, got "
            f"{folder}, which isn't on {socket.gethostname()}. Name a folder on shared storage."
        }

    def poll() -> None:
        # Node 0 asks for it if ranks of another node have failed.
        if store.has(f"stop/{job}"):
            raise RanksFailedError({})

    port = int(str(announced["port"]))
    try:
        run_here(folder, RankGroup(ranks, node.count, node.number, node.address, port), poll)
    except RanksFailedError as error:
        # Without exit codes, node 0 has asked for it: the training has failed all the same.
        return {"exit_codes": error.exit_codes, "failed": True}
    except (KeyboardInterrupt, SIGTERMException) as stop:
        # The ranks of all nodes have saved and stopped together, so node 0 ends like this one.
        is_interrupt = isinstance(stop, KeyboardInterrupt)
        received = signal.SIGINT if is_interrupt else signal.SIGTERM
        store.set(f"done/{job}/{node.number}", json.dumps({"signal": int(received)}))
        raise
    return dict(_SUCCESS)


def _connected(node: Node, trainer: TrainerConfig) -> FirstNodeStore:
    """Return the store of node 0 once it is there."""
    port, timeout_minutes = meeting_port(os.environ), trainer.node_timeout_minutes
    deadline = time.monotonic() + 60 * timeout_minutes

    while True:
        try:
            # The store's own attempts can't be interrupted, and fill the terminal.
            socket.create_connection((node.address, port), timeout=5).close()
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"node 0 has not come within {timeout_minutes:g} minutes; node {node.number} "
                    f"tried {node.address}:{port}. Start the same command on every node, or raise "
                    "trainer.node_timeout_minutes."
                ) from error
        time.sleep(_POLL_SECONDS)

    store = TCPStore(node.address, port, is_master=False, timeout=timedelta(seconds=60))
    return FirstNodeStore(store, trainer.node_silence_seconds)
