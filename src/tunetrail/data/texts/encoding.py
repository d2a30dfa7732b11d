"""Detect damage that a wrong encoding did to a text, without repairing it."""

import re

from ftfy.badness import is_bad

# Tabs, line ends and page breaks are layout; text files hold them on purpose.
_ASCII_CONTROLS = bytes(code for code in (*range(1, 0x20), 0x7F) if chr(code) not in "\t\n\v\f\r")
# Encodings that ftfy's heuristic knows little of.
_OTHER_ENCODINGS = ("cp1250", "cp1251", "cp437")
_ASCII_LETTER = re.compile("[A-Za-z]")
_CONTROL = re.compile("[\x01-\x08\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Words of question marks only: after a word they are emphasis, inside one a pattern.
_LOST_WORDS = re.compile(r"(?<!\S)(?:\?{6,}+|\?{2,}+[,.]?+ \?{2,})")

_NUL_REASON = "holds NUL"
_CONTROL_REASON = "holds control characters"
_LOST_WORDS_REASON = "holds question marks in place of words"


def damage(text: str) -> str | None:
    """Return in a few words the gravest damage to the encoding of `text`; None if there is none.

    Mojibake is judged by the heuristic of ftfy, and by reading lines back in encodings that the
    heuristic knows little of; line by line, because the odds of a false alarm add up in a long
    text.
    """
    if text.isascii():
        return _ascii_damage(text)
    if "\0" in text:
        return _NUL_REASON
    if _SURROGATE.search(text):
        return "holds unpaired surrogates"
    if "\ufffd" in text:
        return "holds U+FFFD, the mark of lost characters"

    if any(not line.isascii() and (is_bad(line) or _is_misread(line)) for line in text.split("\n")):
        return "looks like UTF-8 read as another encoding (mojibake)"
    if _CONTROL.search(text):
        return _CONTROL_REASON
    return _lost_words(text)


def _ascii_damage(text: str) -> str | None:
    raw = text.encode()
    if b"\0" in raw:
        return _NUL_REASON
    # Deleting bytes is four times as fast as searching with a regular expression.
    if len(raw.translate(None, _ASCII_CONTROLS)) != len(raw):
        return _CONTROL_REASON
    return _lost_words(text)


def _is_misread(line: str) -> bool:
    """Tell whether another encoding's bytes for this line are UTF-8, which is rarely chance."""
    for encoding in _OTHER_ENCODINGS:
        try:
            line.encode(encoding).decode()
        except UnicodeError:
            continue
        # A line of box-drawing characters alone may be valid UTF-8 by chance.
        return _ASCII_LETTER.search(line) is not None
    return False


def _lost_words(text: str) -> str | None:
    return _LOST_WORDS_REASON if "???" in text and _LOST_WORDS.search(text) else None
