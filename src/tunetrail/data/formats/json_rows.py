"""Read rows from JSON: one object a line, an array, or objects one after another."""

import json
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

from tunetrail.data.formats.files import LONGEST_ROW, SourceFile, first_block
from tunetrail.data.formats.lines import text_lines
from tunetrail.errors import SampleError
from tunetrail.samples import BrokenRow, SourceRow

Row = SourceRow | BrokenRow


class JsonForm(Enum):
    """How the objects of a file of JSON are separated."""

    LINES = "one JSON object a line"
    ARRAY = "a JSON array"
    OBJECTS = "JSON objects over several lines"


class _RepeatedKeyError(ValueError):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; raises `_RepeatedKeyError` where Python would keep the last value only."""
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise _RepeatedKeyError(f"the key {repeated!r} twice")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_SPACE = re.compile(r"[ \t\r\n]*")
# A whole string, the quote of an unfinished one, or a bracket.
_STRUCTURE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.DOTALL)


def json_form(file: SourceFile) -> JsonForm:
    """Tell from the beginning of a file how its objects are separated."""
    beginning = first_block(file).removeprefix(b"\xef\xbb\xbf").lstrip()
    first_line, line_feed, _ = beginning.partition(b"\n")
    try:
        first_value = json.loads(first_line)
    except (ValueError, RecursionError):
        first_value = None

    if beginning.startswith(b"["):
        # A line with a list of anything but objects is a broken row of a file of lines.
        is_row = isinstance(first_value, list) and not any(
            isinstance(element, dict) for element in first_value
        )
        return JsonForm.LINES if is_row and line_feed else JsonForm.ARRAY
    # A broken first line doesn't make a .jsonl file another format, an opening bracket does.
    is_open = first_line.strip() == b"{" or file.suffix == ".json"
    return JsonForm.OBJECTS if is_open and first_value is None else JsonForm.LINES


def json_rows(file: SourceFile) -> Iterator[Row]:
    """Yield the rows of a file of JSON; a piece that is no object becomes a `BrokenRow`."""
    form = json_form(file)
    if form is JsonForm.LINES:
        yield from _rows_of_lines(file)
    else:
        yield from _rows_of_elements(file, is_array=form is JsonForm.ARRAY)


def _rows_of_lines(file: SourceFile) -> Iterator[Row]:
    for line_number, line in enumerate(text_lines(file), start=1):
        text = line.strip()
        if text:
            yield _row(text, file, line_number)


def _row(text: str, file: SourceFile, line_number: int) -> Row:
    try:
        value, end = _DECODER.raw_decode(text)
        # Only for the error: something follows the value.
        if end < len(text):
            _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        return _broken(text, _fault(error), file, line_number)
    if isinstance(value, dict):
        return SourceRow(value, file.name, line_number)
    fault = f"must be a JSON object, got {type(value).__name__}"
    return _broken(text, fault, file, line_number)


def _fault(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "is JSON nested too deeply"
    if isinstance(error, _RepeatedKeyError):
        return f"must have each key once, got {error}"
    return f"is not JSON: {error}"


def _broken(text: str, fault: str, file: SourceFile, line_number: int) -> BrokenRow:
    reason = f"line {line_number} {fault}."
    return BrokenRow(text=text, reason=reason, source=file.name, position=line_number)


class _Buffer:
    """The text of a file from the row that is being read on."""

    def __init__(self, file: SourceFile) -> None:
        self.text = ""
        self.start = 0
        self.line_number = 1
        self._name = file.name
        self._pieces = self._decoded_blocks(file)

    @staticmethod
    def _decoded_blocks(file: SourceFile) -> Iterator[str]:
        # Line by line, for the error that names a line in another encoding.
        lines: list[str] = []
        size = 0
        for line in text_lines(file):
            lines.append(line)
            size += len(line)
            if size > LONGEST_ROW // 16:
                yield "\n".join([*lines, ""])
                lines, size = [], 0
        yield "\n".join(lines)

    def read_more(self) -> bool:
        """Add the next piece of the file; return whether there was one."""
        if len(self.text) - self.start > LONGEST_ROW:
            return False
        piece = next(self._pieces, None)
        if piece is None:
            return False
        self.text, self.start = self.text[self.start :] + piece, 0
        return True

    def advance(self, end: int) -> None:
        """Go on after a position of the text."""
        self.line_number += self.text.count("\n", self.start, end)
        self.start = end

    def next_character(self) -> str:
        """Skip white space and return the character after it; empty at the end of the file."""
        while True:
            match = _SPACE.match(self.text, self.start)
            self.advance(match.end() if match else self.start)
            if self.start < len(self.text):
                return self.text[self.start]
            if not self.read_more():
                return ""


def _rows_of_elements(file: SourceFile, *, is_array: bool) -> Iterator[Row]:
    """Yield the elements of an array, or the objects that follow one another."""
    buffer = _Buffer(file)
    if is_array:
        buffer.next_character()
        buffer.advance(buffer.start + 1)

    while character := buffer.next_character():
        if is_array and character == "]":
            buffer.advance(buffer.start + 1)
            if buffer.next_character():
                raise _damaged(file, buffer, "text follows the end of the array")
            return
        yield _next_element(file, buffer)

        if is_array and buffer.next_character() not in (",", "]", ""):
            raise _damaged(file, buffer, "a comma or the end of the array is missing")
        if is_array and buffer.next_character() == ",":
            buffer.advance(buffer.start + 1)
    if is_array:
        raise _damaged(file, buffer, "the array has no end")


def _next_element(file: SourceFile, buffer: _Buffer) -> Row:
    """Return the element at the start of the buffer, and advance the buffer to its end."""
    line_number = buffer.line_number
    while True:
        try:
            value, end = _DECODER.raw_decode(buffer.text, buffer.start)
        except (ValueError, RecursionError) as error:
            end = _end_of_element(buffer)
            if end == 0 and buffer.read_more():
                continue
            row: Row = _undecodable_row(file, buffer, end, error)
        else:
            # A number may go on in the next piece.
            is_object = isinstance(value, dict)
            if not is_object and end == len(buffer.text) and buffer.read_more():
                continue

            if is_object:
                row = SourceRow(value, file.name, line_number)
            else:
                fault = f"must be a JSON object, got {type(value).__name__}"
                row = _broken(buffer.text[buffer.start : end], fault, file, line_number)

        buffer.advance(end)
        return row


def _undecodable_row(
    file: SourceFile, buffer: _Buffer, end: int, error: ValueError | RecursionError
) -> BrokenRow:
    """Return the broken row for an element that isn't JSON.

    Args:
        file: The file.
        buffer: It starts with the element.
        end: Where the element ends in the buffer; 0 if it never does.
        error: The decoder's.

    Raises:
        SampleError: The element has no end, so nothing after it can be read.
    """
    fault, position = _fault(error), buffer.start
    if isinstance(error, json.JSONDecodeError):
        # Its own line and column count from the beginning of the buffer.
        fault, position = f"is not JSON: {error.msg}", error.pos

    if end == 0:
        line_number = buffer.line_number + buffer.text.count("\n", buffer.start, position)
        raise SampleError(
            f"{file.name} must be JSON, got line {line_number}, which {fault}. Correct it."
        ) from error
    return _broken(buffer.text[buffer.start : end], fault, file, buffer.line_number)


def _end_of_element(buffer: _Buffer) -> int:
    """Return where a broken object or list ends by its brackets; 0 if it has no end yet."""
    depth = 0
    if buffer.text[buffer.start] not in "[{":
        return 0
    for match in _STRUCTURE.finditer(buffer.text, buffer.start):
        symbol = match.group()
        if symbol == '"':
            return 0
        depth += (symbol in ("[", "{")) - (symbol in ("]", "}"))
        if depth == 0:
            return match.end()
    return 0


def _damaged(file: SourceFile, buffer: _Buffer, fault: str) -> SampleError:
    return SampleError(
        f"{file.name} must be JSON, but in line {buffer.line_number} {fault}. Correct it."
    )
