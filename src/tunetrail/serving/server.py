"""The server: uvicorn, without a log of requests."""

import logging
from collections.abc import Callable

import uvicorn

from tunetrail.serving.app import build_app
from tunetrail.serving.limits import Limits
from tunetrail.serving.live_root import LiveRoot

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SHUTDOWN_SECONDS = 10


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    return host in _LOOPBACK or host.startswith("127.")


def run_server(
    live_root: LiveRoot, limits: Limits, host: str, port: int, on_started: Callable[[], None]
) -> None:
    """Answer requests until the process gets SIGINT or SIGTERM.

    Args:
        live_root: The model that answers.
        limits: What a request may ask for.
        host: Address to listen on.
        port: Port to listen on.
        on_started: Called once the server listens.
    """
    # A page in a browser could reach this machine by a name that its owner points here.
    hosts = (*_LOOPBACK, host) if is_loopback(host) else ("*",)
    config = uvicorn.Config(
        build_app(live_root, limits, hosts),
        host=host,
        port=port,
        access_log=False,
        log_level=logging.WARNING,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    _Server(config, on_started).run()


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list | None = None) -> None:  # type: ignore[type-arg]
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._on_started()
