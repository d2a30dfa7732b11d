"""Encoding damage: what a wrong encoding did to a text before it came here. Says what it sees; repairs nothing."""

import re

from ftfy.badness import is_bad

# Tabs, line ends and page breaks are layout; text files hold them on purpose.
_ASCII_CONTROLS = bytes(code for code in (*range(1, 0x20), 0x7F) if chr(code) not in "\t\n\v\f\r")
_OTHER_ENCODINGS = ("cp1250", "cp1251", "cp437")
_ASCII_LETTER = re.compile("[A-Za-z]")
_CONTROL = re.compile("[\x01-\x08\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LOST_WORDS = re.compile(r"(?<!\S)(?:\?{6,}+|\?{2,}+[,.]?+ \?{2,})")
"""Words of question marks only. One after a word is emphasis, and one inside a word may be a pattern or an address."""

_NUL_REASON = "holds NUL"
_CONTROL_REASON = "holds control characters"
_LOST_WORDS_REASON = "holds question marks in place of words"


def damage(text: str) -> str | None:
    """Return in a few words what is wrong with the encoding of `text`, the gravest first; None if nothing is.

    Mojibake is judged line by line by the heuristic of ftfy, because in a long text the odds of a false alarm add up,
    and by reading lines back in encodings that the heuristic knows little of.
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
    """Whether the bytes that another encoding has for this line are UTF-8: by chance they hardly ever are."""
    for encoding in _OTHER_ENCODINGS:
        try:
            line.encode(encoding).decode()
        except UnicodeError:
            continue
        # A line of box-drawing characters alone may be by chance.
        return _ASCII_LETTER.search(line) is not None
    return False


def _lost_words(text: str) -> str | None:
    return _LOST_WORDS_REASON if "???" in text and _LOST_WORDS.search(text) else None
