"""Run one command in several processes, the ranks of a training, by torch's elastic launcher.

The processes end together: if one fails or is killed, if this process is asked to stop, or if it
dies. What they compute is none of this module's business.
"""

import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    PContext,
    SignalException,
    start_processes,
)

from tunetrail.hardware import cpu_count
from tunetrail.learning.recovery.signals import act_on_signal
from tunetrail.paths import private_folder

_POLL_SECONDS = 0.2
PATIENCE_SECONDS = 600
"""How long the ranks may take to finish a step and to write a checkpoint."""
HANDLED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class RanksFailedError(Exception):
    """A rank has ended before its work was done.

    Args:
        exit_codes: Exit code of each rank that failed; negative: the signal that killed it.
    """

    def __init__(self, exit_codes: Mapping[int, int]) -> None:
        super().__init__(f"exit codes {dict(exit_codes)}")
        self.exit_codes = dict(exit_codes)


@dataclass(frozen=True, slots=True)
class RankGroup:
    """The ranks of one node among all ranks, and where rank 0 listens.

    Attributes:
        ranks: Number of ranks of this node, and of every other.
        nodes: Number of nodes.
        node: Number of this node, from 0.
        address: The host of rank 0.
        port: Its port; None takes a free one of this machine.
    """

    ranks: int
    nodes: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int | None = None


def run_ranks(
    module: str,
    arguments: Sequence[str],
    group: RankGroup,
    folder: Path,
    on_poll: Callable[[], None],
) -> None:
    """Run `python -m module arguments` in a process for each rank of this node.

    Args:
        module: The module; it finds its rank in the environment, as `torch.distributed.run` sets
            it.
        arguments: Its arguments.
        group: The ranks.
        folder: For the launcher's files.
        on_poll: Called again and again while the processes run, and once afterwards.

    Raises:
        RanksFailedError: A rank failed or was killed; the others have been stopped.
        KeyboardInterrupt: SIGINT came; the ranks have saved and stopped.
        SIGTERMException: The same of SIGTERM.
    """
    handlers = {signal_number: signal.getsignal(signal_number) for signal_number in HANDLED_SIGNALS}
    # The launcher speaks of every process that it stops; the errors raised here say it in a line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)

    received: int | None = None
    context = _start(module, arguments, group, folder)
    try:
        _wait(context, group, on_poll)
    except SignalException as stop:
        received = int(stop.sigval)
        # A second signal raises again, and the ranks are killed below.
        context.close(death_sig=signal.SIGTERM, timeout=PATIENCE_SECONDS)
        # The ranks of other nodes have stopped too, which is no failure after a signal.
        with contextlib.suppress(RanksFailedError):
            on_poll()
    finally:
        context.close(death_sig=signal.SIGTERM, timeout=PATIENCE_SECONDS if received else 5)
        # The launcher has put its own handlers in their place.
        for signal_number, handler in handlers.items():
            signal.signal(signal_number, handler)

    if received is not None:
        act_on_signal(received, handlers[signal.Signals(received)])


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _start(module: str, arguments: Sequence[str], group: RankGroup, folder: Path) -> PContext:
    """Start the processes of a node's ranks, each with the variables that Lightning reads."""
    common = {
        "MASTER_ADDR": group.address,
        "MASTER_PORT": str(group.port or free_port()),
        "WORLD_SIZE": str(group.ranks * group.nodes),
        "LOCAL_WORLD_SIZE": str(group.ranks),
        "GROUP_RANK": str(group.node),
        # By this, Lightning knows that the processes are there already.
        "TORCHELASTIC_RUN_ID": folder.name,
        # Or each rank would start a thread for every core.
        "OMP_NUM_THREADS": str(max(cpu_count() // group.ranks, 1)),
    }
    environments, commands = {}, {}
    for local_rank in range(group.ranks):
        rank = group.node * group.ranks + local_rank
        environments[local_rank] = {**common, "RANK": str(rank), "LOCAL_RANK": str(local_rank)}
        commands[local_rank] = ("-m", module, *arguments)

    private_folder(folder)
    specs = DefaultLogsSpecs(log_dir=str(folder))
    return start_processes("rank", sys.executable, commands, environments, specs)


def _wait(context: PContext, group: RankGroup, on_poll: Callable[[], None]) -> None:
    result = None
    while result is None:
        on_poll()
        # `wait` itself stops the other ranks as soon as one has failed.
        result = context.wait(timeout=0)
        if result is None:
            time.sleep(_POLL_SECONDS)
    on_poll()

    if result.is_failed():
        first_rank = group.node * group.ranks
        raise RanksFailedError(
            {first_rank + rank: failure.exitcode for rank, failure in result.failures.items()}
        )
