"""Commands of tunetrail in processes of their own, which end where a test wants them to."""

import importlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Imported once, by the fork server: a command then starts in a fraction of a second.
PRELOADED = ("tests.faults.processes", "tunetrail.cli.train", "tunetrail.cli.resume")
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([*PRELOADED, "tests.faults.libraries"])


@dataclass(frozen=True, kw_only=True)
class Point:
    """A point of a command: a call of a function.

    Attributes:
        name: What is done there.
        function: `module:name` or `module:Class.name`.
        call: Which call of the function, from 1.
        after: Whether the function has returned; otherwise it has not begun.
    """

    name: str
    function: str
    call: int = 1
    after: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended.

    Attributes:
        exit_code: Negative if a signal ended it.
        printed: What it wrote to both of its streams.
    """

    exit_code: int
    printed: str

    @property
    def last_line(self) -> str:
        """The last line that it wrote."""
        return self.printed.splitlines()[-1]


@dataclass(kw_only=True)
class Command:
    """A command of tunetrail that runs in a folder.

    Attributes:
        folder: The working folder; the temporary folder and the cache lie in it.
        arguments: The command and its arguments.
        killed_at: Where the process kills itself; None if it goes on.
        file_bytes: The largest file that it can write; None for no limit.
        environment: Further variables.
    """

    folder: Path
    arguments: Sequence[str]
    killed_at: Point | None = None
    file_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start the process."""
        self.terminal = self.folder / "terminal.txt"
        self.process = FORKS.Process(target=_run, args=(self, str(self.terminal)))
        self.process.start()

    @property
    def is_running(self) -> bool:
        """Whether the process hasn't ended."""
        return self.process.is_alive()

    def printed(self) -> str:
        """Return what it has written so far."""
        return self.terminal.read_text(errors="replace") if self.terminal.exists() else ""

    def wait(self, seconds: float = 240.0) -> Ended:
        """Wait for the end of the process; a test fails if it takes too long."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"{self.arguments} took over {seconds} s: {self.printed()}")
        return Ended(exit_code=self.process.exitcode, printed=self.printed())

    def run(self) -> Ended:
        """Run the command to its end."""
        self.start()
        return self.wait()


def _run(command: Command, terminal: str) -> None:
    """Run a command in this process, which the fork server has just made."""
    with open(terminal, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(command.folder)
    temporary = command.folder / "tmp"
    temporary.mkdir(exist_ok=True)
    tempfile.tempdir = str(temporary)
    os.environ["TUNETRAIL_CACHE"] = str(command.folder / ".cache")
    os.environ["TUNETRAIL_HOME"] = str(command.folder)
    os.environ.update(command.environment)
    os.environ.pop("TUNETRAIL_DATABASE_URL", None)

    if command.killed_at is not None:
        _kill_at(command.killed_at)
    if command.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (command.file_bytes, command.file_bytes))
        # As Python does at its start: a write that is too long then fails like one to a full disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    from tunetrail.cli import main

    sys.exit(main(command.arguments))


def _kill_at(point: Point) -> None:
    """Let this process kill itself at a point, as the kernel does where memory is short."""
    module, _, path = point.function.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for class_name in classes:
        owner = getattr(owner, class_name)
    function, calls = getattr(owner, name), 0

    def killed(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == point.call and not point.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **keywords)
        if calls == point.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, killed)
