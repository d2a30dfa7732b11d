"""Node 0 of a training on several nodes: it lets the others run their ranks, and watches over them.

What it tells them and they tell it is in `tunetrail.learning.nodes.first_node_store`.
"""

import atexit
import functools
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import TrainingError
from tunetrail.learning.devices import device_count
from tunetrail.learning.nodes.node import PORT_VARIABLE, Node, check_nodes, meeting_port, this_node
from tunetrail.learning.recovery.signals import act_on_signal
from tunetrail.learning.workers import PATIENCE_SECONDS, RankGroup, RanksFailedError, free_port

_POLL_SECONDS = 0.2
# How long node 0 waits at its end for the other nodes to leave.
_LEAVE_SECONDS = 5
# How long the other nodes may take to stop their ranks and to say how these have ended.
_REPORT_SECONDS = 60
# Silence for so long explains why ranks have failed: every second brings a sign of life.
_SILENCE_AFTER_FAILURE_SECONDS = 15


class FirstNode:
    """Node 0: waits for the other nodes to come, and lets them run their ranks of each job.

    Args:
        node: This node.
        timeout_minutes: How long it waits for the other nodes to come.
        silence_seconds: How long a node may give no sign of life while ranks train.

    Raises:
        TrainingError: A node hasn't come.
    """

    def __init__(self, node: Node, timeout_minutes: float, silence_seconds: float) -> None:
        self.node = node
        self._silence_seconds = silence_seconds
        self._jobs = 0
        # By node: its last sign of life, and when that came.
        self._signs: dict[int, tuple[bytes, float]] = {}
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
        self._signs.clear()
        announced = {"folder": str(folder.resolve()), "port": port, "ranks": ranks}
        self._store.set(f"job/{job}", json.dumps(announced))

        try:
            group = RankGroup(ranks, self.node.count, 0, self.node.address, port)
            run_here(group, lambda: self._watch(job))
            # Only now may this process end, which ends the others.
            self._wait_for_reports(job, PATIENCE_SECONDS, self._silence_seconds)
            self._raise_failures(job)
        except RanksFailedError as error:
            # The ranks of a failed node are the cause of failures elsewhere: hear all of them.
            self._stop(job)
            silence = min(self._silence_seconds, _SILENCE_AFTER_FAILURE_SECONDS)
            self._wait_for_reports(job, _REPORT_SECONDS, silence)
            self._obey_signal(job)
            raise RanksFailedError({**error.exit_codes, **self._failures(job)}) from error
        except TrainingError:
            self._stop(job)
            raise

    def _end(self) -> None:
        """Tell the other nodes that the work is done, and wait for them to leave."""
        self._store.set("end", "")
        deadline = time.monotonic() + _LEAVE_SECONDS
        while self._missing("left/{}") and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _stop(self, job: int) -> None:
        """Ask the other nodes to stop their ranks of a job."""
        self._store.set(f"stop/{job}", "")

    def _missing(self, key: str) -> list[int]:
        nodes = range(1, self.node.count)
        return [node for node in nodes if not self._store.check([key.format(node)])]

    def _watch(self, job: int) -> None:
        """Raise what has ended the training on another node, or that a node is silent."""
        self._raise_failures(job)
        self._raise_silence(self._missing(f"done/{job}/{{}}"), self._silence_seconds)

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

    def _raise_silence(self, nodes: Sequence[int], silence_seconds: float) -> None:
        """Raise `TrainingError` if one of these nodes, which run ranks, has long been silent."""
        now = time.monotonic()
        for node in nodes:
            sign = self._store.get(f"alive/{node}")
            last_sign, heard = self._signs.get(node, (None, now))
            if sign != last_sign:
                self._signs[node] = (sign, now)
            elif now - heard > silence_seconds:
                raise TrainingError(
                    f"{self._name(node)} was lost: it has given no sign of life for "
                    f"{now - heard:.0f} seconds, and all ranks were stopped. Look at the machine "
                    "and its network, and continue with tunetrail resume."
                )

    def _wait_for_reports(self, job: int, seconds: float, silence_seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while missing := self._missing(f"done/{job}/{{}}"):
            self._raise_silence(missing, silence_seconds)
            if time.monotonic() > deadline:
                raise TrainingError(
                    f"{self._name(missing[0])} was lost: it hasn't said for {seconds:g} seconds "
                    "how its ranks have ended, and all other ranks were stopped. Continue with "
                    "tunetrail resume."
                )
            time.sleep(_POLL_SECONDS)

    def _name(self, node: int) -> str:
        return f"node {node} ({self._store.get(f'joined/{node}').decode()})"


def ranks_of_all_nodes(trainer: TrainerConfig) -> int:
    """Return the number of ranks of a training on the nodes that this process belongs to.

    Raises:
        ConfigError: Neither torchrun nor srun has started as many nodes, or Ray should.
    """
    first_node(trainer)
    return device_count(trainer) * trainer.num_nodes


@functools.cache
def _first_node(node: Node, timeout_minutes: float, silence_seconds: float) -> FirstNode:
    return FirstNode(node, timeout_minutes, silence_seconds)


def first_node(trainer: TrainerConfig) -> FirstNode:
    """Return node 0, which this process is, once all nodes have come.

    Raises:
        ConfigError: Neither torchrun nor srun has started as many nodes, or Ray should.
        TrainingError: A node hasn't come.
    """
    check_nodes(trainer)
    node = this_node()
    assert node is not None
    return _first_node(node, trainer.node_timeout_minutes, trainer.node_silence_seconds)
