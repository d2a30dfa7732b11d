"""What the fixture `call_main` takes and returns: a command of tunetrail, called in this process."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandResult:
    """What a command returned and printed."""

    exit_code: int
    out: str
    err: str


CallMain = Callable[..., CommandResult]
