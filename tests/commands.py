"""What the fixture `call_main` takes and returns: a command of tunetrail, called in this process."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandResult:
    """What a command returned and printed."""

    exit_code: int
    out: str
    err: str

    @property
    def error_line(self) -> str:
        """The only line on standard error; fails if there are several or none."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


CallMain = Callable[..., CommandResult]
