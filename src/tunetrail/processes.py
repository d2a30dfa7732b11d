"""Processes: how old this one is, and its end when one that it works for is gone."""

import os
import signal
import threading
import time

import psutil

_POLL_SECONDS = 1.0


def seconds_of_process() -> float:
    """Return the seconds since this process was started."""
    return time.time() - float(psutil.Process().create_time())


def end_with(parent: int, driver: int | None = None) -> None:
    """Stop this process by SIGTERM once its parent or its driver is gone: nothing else would.

    Whoever is killed can't tell its children. They go on looking from a thread, so that a training
    saves and ends as after any SIGTERM.

    Args:
        parent: The id of the process that has started this one.
        driver: The id of a further process of this machine, such as a grandparent.
    """
    watch = threading.Thread(target=_stop_when_alone, args=(parent, driver), daemon=True)
    watch.start()


def _stop_when_alone(parent: int, driver: int | None) -> None:
    try:
        # Remembers when the process started: another process may get its id later.
        driver_process = None if driver is None else psutil.Process(driver)
        while os.getppid() == parent and _is_alive(driver_process):
            time.sleep(_POLL_SECONDS)
    except psutil.NoSuchProcess:
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(process: psutil.Process | None) -> bool:
    # A killed process stays in the table until its own parent asks for its exit code.
    return process is None or (process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
