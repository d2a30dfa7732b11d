"""What a file format is: how the files of a suffix are read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tunetrail.data.formats.files import SourceFile
from tunetrail.samples import BrokenRow, SourceRow

Row = SourceRow | BrokenRow


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFormat:
    """How the files of a suffix are read; of an installed package, the suffix is its name.

    Attributes:
        rows: Yields the rows of a file in their order, each with the name of the file and its
            position, counted from 1, and a `BrokenRow` for what is no row. It raises `SampleError`
            if the file can't be read any further. `text_lines` reads text in UTF-8, decompressed;
            `opened` gives the bytes as they are stored.
        is_text: Whether the files consist of lines of text. These may be compressed, as .gz or
            .zst, and the positions of their rows are lines.
        counts_lines: Whether a text file has one row in each line, so that progress can be shown.
    """

    rows: Callable[[SourceFile], Iterator[Row]]
    is_text: bool = True
    counts_lines: bool = True
