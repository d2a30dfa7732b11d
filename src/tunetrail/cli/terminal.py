"""Tables and lines on a terminal, whatever its encoding, in which nothing of a value is markup."""

import sys
from typing import TYPE_CHECKING

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
    shown = readable(text.replace("\n", " "), limit or len(text) + 1)
    return shown.encode(encoding, errors="backslashreplace").decode(encoding)


def print_line(console: "Console", text: str) -> None:
    """Print one line, which the terminal may wrap."""
    console.print(printable(text, console), soft_wrap=True, highlight=False)
