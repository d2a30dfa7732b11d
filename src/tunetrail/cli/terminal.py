"""Tables and lines on a terminal, whatever its encoding, in which nothing of a value is markup.

Values come from files, databases and models of others: none of them may colour, move or rename a
terminal, and none may show a password.
"""

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from tunetrail.paths import shown_uri

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def new_table(*columns: str) -> "Table":
    """Return an empty table in the common style."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        # Folded rather than cut off with an ellipsis, which not every terminal can show.
        table.add_column(name, overflow="fold")
    return table


def least_width(table: "Table", console: "Console") -> int:
    """Return the columns of a terminal on which nothing of a table is cut off."""
    from rich.measure import Measurement

    unlimited = console.options.update(max_width=sys.maxsize)
    return Measurement.get(console, unlimited, table).minimum


def printable(text: str, console: "Console") -> str:
    """Return a text for a cell or a line of a rich console, in which brackets are no markup.

    It is cut to the length that `reporting.readable` shows.
    """
    from rich.markup import escape

    from tunetrail.reporting.readable import SHOWN_CHARACTERS

    return escape(plain_text(text, encoding=console.encoding, limit=SHOWN_CHARACTERS))


def plain_text(text: str, *, encoding: str | None = None, limit: int | None = None) -> str:
    """Return a text in one line, whose control characters the terminal doesn't obey.

    Args:
        text: The text.
        encoding: What the terminal can show; None for that of the standard output.
        limit: Characters at most; None for all.
    """
    from tunetrail.reporting.readable import readable

    encoding = encoding or sys.stdout.encoding or "utf-8"
    shown = readable(shown_uri(text).replace("\n", " "), limit or len(text) + 1)
    return shown.encode(encoding, errors="backslashreplace").decode(encoding)


def print_line(console: "Console", text: str) -> None:
    """Print one line, which the terminal may wrap."""
    console.print(printable(text, console), soft_wrap=True, highlight=False)


def say(text: str, file: TextIO | None = None) -> None:
    """Print one line as it is, without a rich console; `file` is the standard output if None."""
    stream = file or sys.stdout
    print(plain_text(text, encoding=stream.encoding), file=stream, flush=True)


def say_loading(command: str) -> None:
    """Say on a terminal that large libraries are imported, unless they are: it takes seconds."""
    from tunetrail.verbosity import WARNINGS, verbosity

    if sys.stderr.isatty() and verbosity() > WARNINGS and "torch" not in sys.modules:
        say(f"{command}: loading the libraries ...", sys.stderr)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Let the block print and log what any terminal can show, and nothing that it would obey."""
    factory = logging.getLogRecordFactory()
    with _escaping(sys.stdout), _escaping(sys.stderr):
        logging.setLogRecordFactory(_PlainRecord)
        try:
            yield
        finally:
            logging.setLogRecordFactory(factory)


@contextlib.contextmanager
def _escaping(stream: TextIO) -> Iterator[None]:
    """Let a stream write characters that its encoding lacks as escapes, instead of failing."""
    # Another program may have put a stream of its own there.
    if not isinstance(stream, io.TextIOWrapper) or stream.errors != "strict":
        yield
        return
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        stream.reconfigure(errors="strict")


class _PlainRecord(logging.LogRecord):
    """A line of the log, of which a terminal obeys nothing, and which shows no password."""

    def getMessage(self) -> str:  # noqa: N802 -- the name is logging's
        from tunetrail.reporting.readable import readable

        message = shown_uri(super().getMessage())
        return readable(message, len(message) + 1)
