"""Repair the characters of a text: its encoding, control characters, line breaks and white space.

Indentation, blanks within a line, and the ends of lines that mean something always survive.
"""

import re
import unicodedata

import ftfy
from ftfy.fixes import fix_c1_controls

from tunetrail.data.texts.prose import read_prose

# Colours, cursor movements and titles that a terminal would have carried out (ECMA-48).
_TERMINAL_SEQUENCE = re.compile(
    r"""(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]
      | \x1b[\]PX^_][^\x07\x1b\n]{0,4096}+(?:\x07|\x1b\\)
      | \x1b[()*+][0-9A-Z] | \x1b\#[0-9] | \x1b%[@G] | \x1b[78=>]""",
    re.VERBOSE,
)
# A printer's bold and underlined letters, as in manual pages: `b`, backspace, `b`.
_OVERSTRUCK = re.compile(r"([^\n\x08])\x08(?=\1)|_\x08(?=[^\n\x08])|(?<=[^\n\x08_])\x08_")
_REWRITTEN = re.compile(r"\x08{2,}+")
# Page breaks, separators of files, groups and records, and Unicode's own line ends.
_LINE_BREAKS = dict.fromkeys(map(ord, "\v\f\x1c\x1d\x1e\x85\u2028\u2029"), "\n")
_UNIT_SEPARATOR = {0x1F: " "}
# Windows' quotation marks and dashes, decoded as Latin-1; U+0085 alone is a line end.
_WINDOWS_CHARACTERS = re.compile("[\x80\x82-\x84\x86-\x8c\x8e\x91-\x9c\x9e\x9f]")
# U+FEFF within a text is a byte order mark that came along when files were joined.
_REMOVED_CODES = {*range(0x20), *range(0x7F, 0xA0), 0xFEFF} - set(map(ord, "\t\n\r"))
_REMOVED = dict.fromkeys(_REMOVED_CODES)
_REPLACED = {**_REMOVED, **_LINE_BREAKS, **_UNIT_SEPARATOR}
# NUL and the controls of transmission separate values in some exports, such as Hive's and FIX's.
# All others are noise, which may stand in the middle of a word. Between single letters, NUL is
# the other half of UTF-16.
_SEPARATING_CONTROLS = re.compile("(?<=\\w)[\x01-\x06]++(?=\\w)|(?<=\\w\\w)\0++(?=\\w\\w)")
_UNUSUAL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff]")

# U+0085 is no line end within two to four characters that are the bytes of one in UTF-8.
_NO_UTF8_BEFORE = "(?<![\xc2-\xdf])(?<![\xe0-\xef][\x80-\xbf])(?<![\xf0-\xf4][\x80-\xbf]{2})"
_LINE_ENDS = re.compile(f"(\n|{_NO_UTF8_BEFORE}\x85(?![\x80-\xbf]))")
_LINE_ENDS_OF_WINDOWS = re.compile("(\n)")
_LINE_END = re.compile(r"\r+\n|\r")
_HARD_BREAK = "  "
# Blanks at the end of a line are content in fenced code and in the context lines of a diff.
_EXACT_LINES = re.compile(r"^[ \t]*(?:```|~~~)|^(?:diff --git |@@ -[0-9]|\+\+\+ )", re.MULTILINE)
_MIN_SHARE_OF_PROSE = 0.5


def fix_encoding(text: str) -> str:
    """Return the text with mojibake decoded, as in `café` for `cafÃ©`.

    Line by line, because ftfy judges a text as a whole: one broken line must not depend on its
    neighbours.
    """
    # Next to other characters of Windows, U+0085 is an ellipsis, otherwise a line end.
    line_end = _LINE_ENDS_OF_WINDOWS if _WINDOWS_CHARACTERS.search(text) else _LINE_ENDS
    return "".join(map(_fix_encoding_of_line, line_end.split(text)))


def _fix_encoding_of_line(line: str) -> str:
    return line if line.isascii() or line == "\x85" else ftfy.fix_encoding(line)


def normalize_characters(text: str) -> str:
    """Return the text in the composed form NFC, without control characters.

    Page breaks and separators of lines become line breaks, and separators of columns blanks, so
    that no two words are joined. What a terminal would have carried out is removed as a whole.
    """
    if _UNUSUAL.search(text):
        text = _without_controls(text)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _without_controls(text: str) -> str:
    if "\x1b" in text or "\x9b" in text:
        text = _TERMINAL_SEQUENCE.sub("", text)
    if "\b" in text:
        text = _OVERSTRUCK.sub("", text)
        # A progress bar goes back to write its line again.
        text = _REWRITTEN.sub("\n", text)
    if _WINDOWS_CHARACTERS.search(text):
        text = fix_c1_controls(text)
    return _SEPARATING_CONTROLS.sub(" ", text).translate(_REPLACED)


def normalize_whitespace(text: str) -> str:
    """Return the text with `\\n` for line breaks and without white space around it.

    In prose, blanks at the ends of lines go too, except for Markdown's hard line break; in code,
    diffs, logs and fenced blocks they stay.
    """
    text = _LINE_END.sub("\n", text) if "\r" in text else text
    if "\n" not in text:
        return text.strip()

    # Blank lines at the start go, but the first line's indentation belongs to code.
    text = re.sub(r"\A\s*\n", "", text.rstrip())
    if " \n" not in text and "\t\n" not in text:
        return text if "\n" in text else text.strip()

    if _EXACT_LINES.search(text) or read_prose(text).share < _MIN_SHARE_OF_PROSE:
        return text
    lines = text.split("\n")
    for index, line in enumerate(lines[:-1]):
        stripped = line.rstrip(" \t")
        blanks = line[len(stripped) :]
        is_hard_break = (
            stripped
            and blanks.startswith(_HARD_BREAK)
            and not blanks.strip(" ")
            and lines[index + 1].strip()
        )
        lines[index] = line if is_hard_break else stripped
    return "\n".join(lines)
