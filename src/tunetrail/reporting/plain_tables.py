"""Tables of a result's `repr`, as text and as HTML for notebooks, in which every value is text."""

import html
from collections.abc import Sequence

from tunetrail.reporting.readable import readable


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[str]) -> str:
    """Return a table and the lines below it as text, of which a terminal obeys nothing."""
    cells = [list(map(_one_line, row)) for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])

    shown = []
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        shown.append("  ".join(padded).rstrip())
    return "\n".join([*shown, *map(_one_line, lines)])


def html_table(columns: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[str]) -> str:
    """Return a table and the lines below it as HTML, in which every value is escaped."""
    head = "".join(f"<th>{_escaped(name)}</th>" for name in columns)
    body = []
    for row in rows:
        cells = "".join(f"<td>{_escaped(cell)}</td>" for cell in row)
        body.append(f"<tr>{cells}</tr>")

    paragraphs = "".join(f"<div>{_escaped(line)}</div>" for line in lines)
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f"<table>{table}</table>{paragraphs}"


def _escaped(text: str) -> str:
    return html.escape(_one_line(text))


def _one_line(text: str) -> str:
    """Return a text in one line, without characters that a terminal or a browser would obey."""
    return " ".join(readable(text, len(text) + 1).split())
