"""A server of root in a thread of the test's own process."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from tunetrail.serving.app import build_app
from tunetrail.serving.limits import Limits
from tunetrail.serving.live_root import LiveRoot

LIMITS = Limits(body_bytes=20_000, texts=8, messages=4, new_tokens=32)


@contextmanager
def answering(live_root: LiveRoot, limits: Limits = LIMITS) -> Iterator[str]:
    """Run the server in a thread, and yield its address."""
    config = uvicorn.Config(
        build_app(live_root, limits, ["127.0.0.1"]),
        host="127.0.0.1",
        port=0,
        access_log=False,
        log_level=logging.WARNING,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
