"""Run one command in several processes, the ranks of a training, by torch's elastic launcher.

The processes end together: if one fails or is killed, if this process is asked to stop, or if it
dies. What they compute is none of this module's business.
"""

import logging
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    PContext,
    SignalException,
    start_processes,
)

from tunetrail.learning.devices import cpu_count
from tunetrail.learning.recovery.signals import act_on_signal

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


def run_ranks(
    module: str, arguments: Sequence[str], ranks: int, folder: Path, on_poll: Callable[[], None]
) -> None:
    """Run `python -m module arguments` in as many processes as there are ranks.

    Args:
        module: The module; it finds its rank in the environment, as `torch.distributed.run` sets
            it.
        arguments: Its arguments.
        ranks: Number of processes.
        folder: For the launcher's files.
        on_poll: Called again and again while the processes run, and once afterwards.

    Raises:
        RanksFailedError: A rank failed or was killed; the others have been stopped.
        KeyboardInterrupt: SIGINT came; the ranks have saved and stopped.
        SIGTERMException: The same of SIGTERM.
    """
    handlers = {number: signal.getsignal(number) for number in HANDLED_SIGNALS}
    # The launcher speaks of every process that it stops; the errors raised here say it in a line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)

    received: int | None = None
    context = _start(module, arguments, ranks, folder)
    try:
        _wait(context, on_poll)
    except SignalException as stop:
        received = int(stop.sigval)
        # A second signal raises again, and the ranks are killed below.
        context.close(death_sig=signal.SIGTERM, timeout=PATIENCE_SECONDS)
        on_poll()
    finally:
        context.close(death_sig=signal.SIGTERM, timeout=PATIENCE_SECONDS if received else 5)
        # The launcher has put its own handlers in their place.
        for number, handler in handlers.items():
            signal.signal(number, handler)

    if received is not None:
        act_on_signal(received, handlers[signal.Signals(received)])


def _start(module: str, arguments: Sequence[str], ranks: int, folder: Path) -> PContext:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        # By this, Lightning knows that the processes are there already.
        "TORCHELASTIC_RUN_ID": folder.name,
        # Or each rank would start a thread for every core.
        "OMP_NUM_THREADS": str(max(cpu_count() // ranks, 1)),
    }
    environments, commands = {}, {}
    for rank in range(ranks):
        environments[rank] = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        commands[rank] = ("-m", module, *arguments)

    folder.mkdir(parents=True, exist_ok=True)
    specs = DefaultLogsSpecs(log_dir=str(folder))
    return start_processes("rank", sys.executable, commands, environments, specs)


def _wait(context: PContext, on_poll: Callable[[], None]) -> None:
    result = None
    while result is None:
        on_poll()
        # `wait` itself stops the other ranks as soon as one has failed.
        result = context.wait(timeout=0)
        if result is None:
            time.sleep(_POLL_SECONDS)
    on_poll()

    if result.is_failed():
        raise RanksFailedError(
            {rank: failure.exitcode for rank, failure in result.failures.items()}
        )
