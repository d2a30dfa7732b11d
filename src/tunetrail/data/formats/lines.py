"""Read the lines of a text file as UTF-8, and name the encoding of a file in another one."""

from collections.abc import Iterator

from tunetrail.data.formats.files import LONGEST_ROW, SourceFile, blocks
from tunetrail.errors import SampleError
from tunetrail.samples import BrokenRow, SourceRow

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MEBIBYTE = 1 << 20

# UTF-32 comes first: its mark begins with that of UTF-16.
_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_OTHER_FORMATS = {
    b"\x1f\x8b": ("a gzip file", "Add .gz to its name"),
    b"\x28\xb5\x2f\xfd": ("a Zstandard file", "Add .zst to its name"),
    b"PK\x03\x04": ("a ZIP archive or a spreadsheet", "Unpack it, or export it as CSV"),
    b"PAR1": ("a Parquet file", "Let its name end with .parquet"),
    b"ARROW1": ("an Arrow file", "Let its name end with .arrow"),
    b"SQLite format 3": ("a SQLite database", "Read it with --query"),
}
_SAMPLE_BYTES = 1 << 16
# The encodings that files of text have, as Python and as iconv call them; if a text is too short
# to tell them apart, the first is named.
_ENCODING_NAMES = {
    "gb18030": "GB18030",
    "big5": "BIG5",
    "cp932": "SHIFT_JIS",
    "euc_jp": "EUC-JP",
    "cp949": "EUC-KR",
    "cp1252": "WINDOWS-1252",
    "cp1250": "WINDOWS-1250",
    "cp1251": "WINDOWS-1251",
    "cp1253": "WINDOWS-1253",
    "cp1254": "WINDOWS-1254",
    "cp1255": "WINDOWS-1255",
    "cp1256": "WINDOWS-1256",
    "koi8_r": "KOI8-R",
}
# Difference of disorder, as charset-normalizer measures it, up to which two readings are equal.
_EQUAL_CHAOS = 0.1


def text_lines(file: SourceFile) -> Iterator[str]:
    """Yield the lines of a file without their line feeds; a carriage return stays.

    Raises:
        SampleError: The file can't be read, isn't UTF-8, or a line is longer than 16 MiB.
    """
    line_number, unfinished = 0, b""
    for block in blocks(file):
        if line_number == 0 and not unfinished:
            _check_beginning(file, block)
            block = block.removeprefix(_BYTE_ORDER_MARK)

        complete, line_feed, unfinished = (unfinished + block).rpartition(b"\n")
        if line_feed:
            # A block at a time, because decoding line by line takes three times as long.
            for line in _decoded(file, complete, line_number + 1):
                line_number += 1
                yield line
        if len(unfinished) > LONGEST_ROW:
            raise SampleError(
                f"{file.name} must have lines of at most {LONGEST_ROW // _MEBIBYTE} MiB, "
                f"got more in line {line_number + 1}. Split or remove it."
            )

    if unfinished:
        yield from _decoded(file, unfinished, line_number + 1)


def text_rows(file: SourceFile) -> Iterator[SourceRow | BrokenRow]:
    """Yield a row with the column `text` for each line of a file that isn't blank."""
    for line_number, line in enumerate(text_lines(file), start=1):
        if line.strip():
            yield SourceRow({"text": line.removesuffix("\r")}, file.name, line_number)


def _decoded(file: SourceFile, content: bytes, first_line: int) -> Iterator[str]:
    """Yield the lines of some bytes; raises `SampleError` at the first that isn't UTF-8."""
    try:
        # Not splitlines, which also breaks at U+2028 and other characters within a text.
        yield from content.decode().split("\n")
        return
    except UnicodeDecodeError:
        lines = content.split(b"\n")

    for line_number, line in enumerate(lines, start=first_line):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            following = b"\n".join(lines[line_number - first_line :])
            raise _wrong_encoding(file, line, error.start, line_number, following) from error


def _check_beginning(file: SourceFile, block: bytes) -> None:
    """Raise `SampleError` for a file whose first bytes tell that it isn't text in UTF-8."""
    for magic, (content, advice) in _OTHER_FORMATS.items():
        if block.startswith(magic):
            raise SampleError(f"{file.name} must be text, got {content}. {advice}.")

    encoding = next((name for mark, name in _MARKS.items() if block.startswith(mark)), "")
    if not encoding and b"\0" in block[:_SAMPLE_BYTES]:
        encoding = _utf_16_of(block[:_SAMPLE_BYTES])
    if encoding:
        raise SampleError(
            f"{file.name} must be UTF-8, got {encoding}. Save it as UTF-8, for example with "
            f"`iconv -f {encoding} -t UTF-8`."
        )


def _utf_16_of(sample: bytes) -> str:
    """Return the UTF-16 that a text without a mark is in, empty if it is something else."""
    # Letters of Latin scripts have a zero byte each, always on the same side.
    even, odd = sample[::2], sample[1::2]
    if odd.count(0) > len(odd) // 4 and not even.count(0):
        return "UTF-16LE"
    if even.count(0) > len(even) // 4 and not odd.count(0):
        return "UTF-16BE"
    return ""


def _wrong_encoding(
    file: SourceFile, line: bytes, position: int, line_number: int, following: bytes
) -> SampleError:
    encoding = _likely_encoding(following[:_SAMPLE_BYTES])
    advice = "Save it as UTF-8."
    if encoding:
        advice = (
            f"It seems to be {encoding}. Save it as UTF-8, for example with "
            f"`iconv -f {encoding} -t UTF-8`."
        )
    return SampleError(
        f"{file.name} must be UTF-8, got byte 0x{line[position]:02x} in line {line_number}. "
        f"{advice}"
    )


def _likely_encoding(sample: bytes) -> str:
    """Return the encoding that a text is most likely in, by its iconv name; empty if none is."""
    from charset_normalizer import from_bytes

    # A cut through a character at the end would rule its encoding out.
    sample = sample.rpartition(b"\n")[0] or sample
    matches = list(from_bytes(sample, cp_isolation=list(_ENCODING_NAMES)))
    if not matches:
        return ""

    # Coherence above 0: the letters are as frequent as in a language that it knows.
    best = matches[0]
    possible = set(best.could_be_from_charset)
    if best.coherence == 0.0:
        for match in matches[1:]:
            if match.chaos <= best.chaos + _EQUAL_CHAOS:
                possible.update(match.could_be_from_charset)
    return next((name for codec, name in _ENCODING_NAMES.items() if codec in possible), "")
