"""Let the processes that torchrun or srun starts on several machines train one model together.

Node 0 does the work of the command, and tells the other nodes by a `TCPStore` which ranks to start:

joined/NODE   the host name of a node that has come
job/JOB       the job's folder, and how its ranks find one another
stop/JOB      asks the nodes to stop the ranks of a job
done/JOB/NODE how the ranks of a node ended: the exit codes of those that failed, or the signal
end           node 0 has done its work
left/NODE     a node has seen that, and doesn't look at the store any more
"""

import atexit
import functools
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import ConfigError, TrainingError
from tunetrail.learning.devices import device_count
from tunetrail.learning.recovery.signals import act_on_signal
from tunetrail.learning.workers import PATIENCE_SECONDS, RankGroup, RanksFailedError, free_port

PORT_VARIABLE = "TUNETRAIL_NODE_PORT"
_DEFAULT_PORT = 29501
_FIRST_SLURM_PORT, _SLURM_PORTS = 15_000, 10_000
"""Two jobs of SLURM can share a machine, so the port follows from the job's number."""
_POLL_SECONDS = 0.2
_LEAVE_SECONDS = 5
"""How long node 0 waits at its end for the other nodes to leave."""
_SUCCESS: dict[str, object] = {"exit_codes": {}}
# By these, Lightning would take this process for a rank, in trial runs as well; by the first one,
# the ranks would look for their store at torchrun's agent, which doesn't listen on their port.
_LAUNCHER_VARIABLES = (
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_RUN_ID",
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "SLURM_NTASKS",
)
_REPORT_SECONDS = 15
"""How long the other nodes may take to tell that their ranks have failed, or were stopped."""


@dataclass(frozen=True, slots=True)
class Node:
    """One of the nodes of a training: its number from 0, their count, and the host of node 0."""

    number: int
    count: int
    address: str


def node_of(environment: Mapping[str, str]) -> Node | None:
    """Return the node that the variables of torchrun or srun describe; None if there are none.

    Raises:
        ConfigError: There are several processes on one node.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        if environment.get("LOCAL_WORLD_SIZE", "1") != "1":
            raise ConfigError(
                "torchrun's --nproc-per-node must be 1, got "
                f"{environment['LOCAL_WORLD_SIZE']}. trainer.devices sets the ranks of a node."
            )
        number, count = int(environment["GROUP_RANK"]), int(environment["GROUP_WORLD_SIZE"])
        return Node(number, count, environment["MASTER_ADDR"])

    # An allocation by salloc has no step: only what srun starts is a node.
    if "SLURM_STEP_NODELIST" not in environment:
        return None
    number, count = int(environment["SLURM_NODEID"]), int(environment["SLURM_STEP_NUM_NODES"])
    tasks = int(environment["SLURM_STEP_NUM_TASKS"])
    if tasks != count:
        raise ConfigError(
            f"srun's --ntasks-per-node must be 1, got {tasks} tasks on {count} nodes. "
            "trainer.devices sets the ranks of a node."
        )
    return Node(number, count, _first_host(environment["SLURM_STEP_NODELIST"]))


def meeting_port(environment: Mapping[str, str]) -> int:
    """Return the port of node 0 at which nodes meet, the same on all of them."""
    if PORT_VARIABLE in environment:
        return int(environment[PORT_VARIABLE])
    if "SLURM_JOB_ID" in environment:
        return _FIRST_SLURM_PORT + int(environment["SLURM_JOB_ID"]) % _SLURM_PORTS
    return _DEFAULT_PORT


def _first_host(hosts: str) -> str:
    """Return the first host of a list in SLURM's notation, such as `gpu[03-05,9],login`."""
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", hosts)[0])


@functools.cache
def this_node() -> Node | None:
    """Return the node that this process is; None if neither torchrun nor srun has started it."""
    node = node_of(os.environ)
    for name in _LAUNCHER_VARIABLES:
        if node is not None:
            os.environ.pop(name, None)
    return node


class FirstNode:
    """Node 0: waits for the other nodes to come, and lets them run their ranks of each job."""

    def __init__(self, node: Node, timeout_minutes: float) -> None:
        self.node = node
        self._jobs = 0
        port = meeting_port(os.environ)
        try:
            self._store = TCPStore(node.address, port, is_master=True, wait_for_workers=False)
        except DistError as error:
            raise TrainingError(
                f"node 0 can't listen on {node.address}:{port}. Set {PORT_VARIABLE} on all nodes "
                "to a free port."
            ) from error

        deadline = time.monotonic() + 60 * timeout_minutes
        while missing := self._missing("joined/{}"):
            if time.monotonic() > deadline:
                names = ", ".join(map(str, missing))
                raise TrainingError(
                    f"node {names} of {node.count} has not come within {timeout_minutes:g} "
                    f"minutes; node 0 waited at {node.address}:{port}. Start the same command on "
                    "every node, or raise trainer.node_timeout_minutes."
                )
            time.sleep(_POLL_SECONDS)
        # A store that vanishes is an error for the others, and fills their terminals.
        atexit.register(self._end)

    def _end(self) -> None:
        """Tell the other nodes that the work is done, and wait for them to leave."""
        self._store.set("end", "")
        deadline = time.monotonic() + _LEAVE_SECONDS
        while self._missing("left/{}") and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def run(
        self,
        folder: Path,
        ranks: int,
        run_here: Callable[[RankGroup, Callable[[], None]], None],
    ) -> None:
        """Run the ranks of a job on all nodes.

        Args:
            folder: The job, which all nodes must see.
            ranks: Number of ranks of each node.
            run_here: Runs the ranks of this node; calls its second argument again and again.

        Raises:
            RanksFailedError: Ranks failed, here or on another node; all have been stopped.
            TrainingError: A node was lost.
            KeyboardInterrupt: SIGINT came, here or to another node; the ranks have saved.
            SIGTERMException: The same of SIGTERM.
        """
        job, port = self._jobs, free_port()
        self._jobs += 1
        announced = {"folder": str(folder.resolve()), "port": port, "ranks": ranks}
        self._store.set(f"job/{job}", json.dumps(announced))

        try:
            group = RankGroup(ranks, self.node.count, 0, self.node.address, port)
            run_here(group, lambda: self._raise_failures(job))
            # Only now may this process end, which ends the others.
            self._wait_for_reports(job, PATIENCE_SECONDS)
            self._raise_failures(job)
        except RanksFailedError as error:
            # The ranks of a failed node are the cause of failures elsewhere: hear all of them.
            self._store.set(f"stop/{job}", "")
            self._wait_for_reports(job, _REPORT_SECONDS)
            self._obey_signal(job)
            raise RanksFailedError({**error.exit_codes, **self._failures(job)}) from error

    def _missing(self, key: str) -> list[int]:
        nodes = range(1, self.node.count)
        return [node for node in nodes if not self._store.check([key.format(node)])]

    def _failures(self, job: int) -> dict[int, int]:
        exit_codes: dict[int, int] = {}
        for node in range(1, self.node.count):
            key = f"done/{job}/{node}"
            if self._store.check([key]):
                report = json.loads(self._store.get(key))
                if "error" in report:
                    raise TrainingError(f"node {node}: {report['error']}")
                for rank, code in report.get("exit_codes", {}).items():
                    exit_codes[int(rank)] = code
        return exit_codes

    def _obey_signal(self, job: int) -> None:
        """Raise what a signal means that another node has received, after all ranks have saved."""
        for node in range(1, self.node.count):
            report = json.loads(self._store.get(f"done/{job}/{node}"))
            if "signal" in report:
                act_on_signal(report["signal"], None)

    def _raise_failures(self, job: int) -> None:
        if exit_codes := self._failures(job):
            raise RanksFailedError(exit_codes)

    def _wait_for_reports(self, job: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while missing := self._missing(f"done/{job}/{{}}"):
            if time.monotonic() > deadline:
                host = self._store.get(f"joined/{missing[0]}").decode()
                raise TrainingError(
                    f"node {missing[0]} ({host}) was lost with its process or its machine, and "
                    "all ranks were stopped. Continue with tunetrail resume."
                )
            time.sleep(_POLL_SECONDS)


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
        TrainingError: Node 0 didn't come, has ended during a job, or a rank of this node failed.
    """
    store = _connected(node, trainer.node_timeout_minutes)
    job, failed = 0, False
    while True:
        try:
            store.set(f"joined/{node.number}", socket.gethostname())
            while not store.check([f"job/{job}"]):
                if store.check(["end"]):
                    store.set(f"left/{node.number}", "")
                    _raise_if(failed, node)
                    return
                time.sleep(_POLL_SECONDS)
            announced = json.loads(store.get(f"job/{job}"))
        except DistError:
            # Killed between two jobs, it can't say so any more.
            _raise_if(failed, node)
            return

        try:
            report = _run_job(store, node, job, announced, run_here)
            store.set(f"done/{job}/{node.number}", json.dumps(report))
            failed = report != _SUCCESS
        except DistError as error:
            raise TrainingError(
                f"node {node.number}: node 0 ({node.address}) has ended during the training, and "
                "the ranks of this node were stopped."
            ) from error
        job += 1


def _raise_if(failed: bool, node: Node) -> None:
    if failed:
        raise TrainingError(
            f"node {node.number}: the training failed; node 0 ({node.address}) tells why."
        )


def _run_job(
    store: TCPStore,
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
        if store.check([f"stop/{job}"]):
            raise RanksFailedError({})

    port = int(str(announced["port"]))
    try:
        run_here(folder, RankGroup(ranks, node.count, node.number, node.address, port), poll)
    except RanksFailedError as error:
        return {"exit_codes": error.exit_codes}
    except (KeyboardInterrupt, SIGTERMException) as stop:
        # The ranks of all nodes have saved and stopped together, so node 0 ends like this one.
        is_interrupt = isinstance(stop, KeyboardInterrupt)
        received = signal.SIGINT if is_interrupt else signal.SIGTERM
        store.set(f"done/{job}/{node.number}", json.dumps({"signal": int(received)}))
        raise
    return dict(_SUCCESS)


def _connected(node: Node, timeout_minutes: float) -> TCPStore:
    """Return the store of node 0 once it is there."""
    port = meeting_port(os.environ)
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

    return TCPStore(node.address, port, is_master=False, timeout=timedelta(seconds=60))


def check_nodes(trainer: TrainerConfig) -> None:
    """Check that this process was started on as many nodes as the settings say.

    Raises:
        ConfigError: It wasn't, or Ray should start the ranks.
    """
    node = this_node()
    started = node.count if node else 1
    if trainer.num_nodes == started == 1:
        return

    if trainer.launcher != "local":
        raise ConfigError(
            f"trainer.num_nodes must be 1 with trainer.launcher=ray, got {trainer.num_nodes}. "
            "Ray places its workers itself: set trainer.devices only."
        )
    if node is None or trainer.num_nodes != started:
        nodes = max(trainer.num_nodes, started)
        raise ConfigError(
            "trainer.num_nodes must be the number of nodes that torchrun or srun has started "
            f"({node.count if node else 'none'}), got {trainer.num_nodes}. Start `srun --nodes="
            f"{nodes} --ntasks-per-node=1 tunetrail train trainer.num_nodes={nodes} ...`, or use "
            "torchrun as in docs/training.md."
        )


def ranks_of_all_nodes(trainer: TrainerConfig) -> int:
    """Return the number of ranks of a training on the nodes that this process belongs to.

    Raises:
        ConfigError: Neither torchrun nor srun has started as many nodes, or Ray should.
    """
    first_node(trainer)
    return device_count(trainer) * trainer.num_nodes


@functools.cache
def _first_node(node: Node, timeout_minutes: float) -> FirstNode:
    return FirstNode(node, timeout_minutes)


def first_node(trainer: TrainerConfig) -> FirstNode:
    """Return node 0, which this process is, once all nodes have come.

    Raises:
        ConfigError: Neither torchrun nor srun has started as many nodes, or Ray should.
        TrainingError: A node hasn't come.
    """
    check_nodes(trainer)
    node = this_node()
    assert node is not None
    return _first_node(node, trainer.node_timeout_minutes)
