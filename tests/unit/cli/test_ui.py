from collections.abc import Callable
from typing import Any


def test_ui_refuses_a_store_that_is_not_there(tunetrail: Callable[..., Any]) -> None:
    ended = tunetrail("ui", "--uri", "sqlite:///absent.db")
    assert ended.code == 2 and len(ended.err.splitlines()) == 1
    assert ended.err.startswith(
        "error: --uri must name a store with runs, got sqlite:///absent.db: there is no such file."
    )
