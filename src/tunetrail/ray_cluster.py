"""Connect to the Ray cluster that `RAY_ADDRESS` names, or start one on this machine."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from tunetrail.errors import ConfigError, first_line

_ADDRESS = "RAY_ADDRESS"
_LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_CONNECT_SECONDS = 10.0


def is_named() -> bool:
    """Tell whether the environment names a cluster, on whatever machines."""
    return bool(os.environ.get(_ADDRESS))


def check_installed(setting: str) -> None:
    """Raise `ConfigError` if Ray isn't installed.

    Args:
        setting: The setting that asks for Ray; the error names it.
    """
    if find_spec("ray") is None:
        raise ConfigError(
            f"{setting} must be local if Ray isn't installed, got 'ray'. "
            "pip install 'tunetrail[ray]'"
        )


def connect(setting: str) -> bool:
    """Connect this process to the cluster, and tell whether it wasn't connected before.

    Args:
        setting: The setting that asks for Ray; errors name it.

    Raises:
        ConfigError: Ray isn't installed, or the cluster can't be reached.
    """
    check_installed(setting)
    # Ray reports its usage to its makers unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not is_named():
        # Read when Ray is imported: without it, Ray listens on all addresses of this machine.
        os.environ.setdefault(_LOOPBACK_ONLY, "0")

    address = os.environ.get(_ADDRESS) or "local"
    try:
        _check_reachable(address)

        import ray

        if ray.is_initialized():
            return False
        with _own_sigterm():
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise _not_connected(address, error) from error
    return True


@contextmanager
def connected(setting: str) -> Iterator[None]:
    """Connect to the cluster for a while, unless the process is connected anyway."""
    is_new = connect(setting)
    try:
        yield
    finally:
        if is_new:
            disconnect()


def disconnect() -> None:
    """Leave the cluster, which kills this process's workers; end it if it was started here."""
    import ray

    ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise `OSError` if nobody listens: Ray itself would go on trying."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


def _not_connected(address: str, error: Exception) -> ConfigError:
    if "InvalidAuthToken" in str(error.__cause__):
        return ConfigError(
            f"RAY_AUTH_TOKEN must be the token of the Ray cluster at {address!r}, got another or "
            "none. Set it with RAY_AUTH_MODE=token, as on the machines of the cluster."
        )
    return ConfigError(
        f"{_ADDRESS} must be the address of a running Ray cluster, got {address!r}: "
        f"{first_line(error)}. "
        "Start it with `ray start --head`, or unset the variable to start a cluster here."
    )


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM, which Ray replaces in the main thread."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
