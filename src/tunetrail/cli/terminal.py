"""Tables and lines on a terminal, whatever its encoding, in which nothing of a value is markup."""

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
    """Return a text that the terminal can show, in which brackets are no markup."""
    from rich.markup import escape

    from tunetrail.reporting.readable import readable

    encoding = console.encoding
    shown = readable(text).encode(encoding, errors="backslashreplace").decode(encoding)
    return escape(shown)


def print_line(console: "Console", text: str) -> None:
    """Print one line, which the terminal may wrap."""
    console.print(printable(text, console), soft_wrap=True, highlight=False)
