"""Addresses that servers listen on: checked before a server is started."""

import errno
import socket

from tunetrail.errors import UserError


def server_address(host: str, port: int) -> str:
    """Return the address by which a browser on this machine reaches the server."""
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def check_address(host: str, port: int) -> None:
    """Raise `UserError` if the server could not listen, since it would only log that it can't."""
    if not 1 <= port <= 65535:
        raise UserError(f"--port must be between 1 and 65535, got {port}. Try --port 5001.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise _wrong_host(host) from error

    with socket.socket(family, kind) as server:
        # As the server does: a port that was left a moment ago is free.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise _wrong_host(host) from error
            in_use = error.errno == errno.EADDRINUSE
            reason = "another program listens on it" if in_use else str(error.strerror)
            raise UserError(
                f"--port must be free, got {port}: {reason}. Try --port {port % 65535 + 1}."
            ) from error


def _wrong_host(host: str) -> UserError:
    return UserError(
        f"--host must be an address of this machine, got {host!r}. "
        "Use 127.0.0.1, or 0.0.0.0 to let other machines in."
    )
