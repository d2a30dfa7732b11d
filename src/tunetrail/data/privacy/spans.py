"""Spans of findings in a text, the edges of numbers, and checks of the words around them.

The finders look at a folded text (see `fold_text`), in which the digits of every script and the
full-width characters of Chinese and Japanese are ASCII.
"""

import re
import unicodedata

Span = tuple[int, int]
"""Start and end of a finding, in characters, as in `text[start:end]`."""

BLANK = "[ \u00a0\u202f]"
"""Pattern of the blank between groups of digits, some of them unbreakable."""

LATIN = "A-Za-z\u00c0-\u024f\u1e00-\u1eff"
"""Ranges of the Latin letters, which make a name or a word of digits that touch them.

Other scripts put numbers next to letters without a blank, as in Chinese, or with a particle, as in
Korean, so that their letters are an edge.
"""

WORD = f"{LATIN}0-9_"
"""Ranges of the characters that continue a word or a number: `\\w` without other scripts."""

NUMBER_ENDS = rf"(?![{WORD}])(?![-./:][0-9])"
"""Pattern of the right edge of a number; the end of a sentence may follow."""

# From the Arabic-Indic digits to the last ones of Unicode 16.
_DIGITS_OF_SCRIPTS = filter(str.isdecimal, map(chr, range(0x660, 0x1FC00)))
_OTHER_DIGITS = {digit: str(unicodedata.digit(digit)) for digit in _DIGITS_OF_SCRIPTS}
# U+FF01 to U+FF5E are the full-width forms of `!` to `~`, without the brackets: see below.
_FULL_WIDTH = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_FOLDED = {**_FULL_WIDTH, **_OTHER_DIGITS}
_BRACKETS = {"\uff08": "(", "\uff09": ")"}
_DASHES = dict.fromkeys("\u2212\u2015\u2500\u30fc", "-")
# Brackets only around a number, because `(` after a domain is a call; the long vowel and other
# strokes are dashes only between digits.
_FOLDS = {**_FOLDED, **_BRACKETS, **_DASHES}
_ALWAYS_FOLDED = "".join(sorted(_FOLDED.keys() - _BRACKETS.keys()))
# Every letter is looked up in the first set, so its lookup has to be fast: a table for the
# characters up to U+FFFF, and one range for all later ones. Only then the conditions are checked.
_FIRST_SET = "".join(sorted(filter("\U00010000".__gt__, _FOLDS))) + "\U00010000-\U0010ffff"
_FOLDABLE = re.compile(
    rf"[{_FIRST_SET}](?:(?<=[{_ALWAYS_FOLDED}])"
    rf"|(?<=\uff08)(?<![{LATIN}].)(?=\+?\d)|(?<=\uff09)(?<=\d.)"
    rf"|(?<=[{''.join(_DASHES)}])(?<=\d.)(?=\d))"
)


def fold_text(text: str) -> str:
    """Return `text` with ASCII for the digits of all scripts and for full-width characters.

    No character is added or lost, so that a span of the result is one of `text`.
    """
    if text.isascii() or not _FOLDABLE.search(text):
        return text
    return _FOLDABLE.sub(lambda match: _FOLDS[match[0]], text)


def first(characters: str) -> str:
    """Return the pattern of a number's first character, which doesn't continue a word or a number.

    The lookbehind follows the character: a pattern that begins with a set of characters is
    searched much faster.
    """
    return rf"{characters}(?<![{WORD}+].)(?<![0-9][-./:].)"


def stands_near(
    text: str, span: Span, word: re.Pattern[str], *, before: int = 48, after: int = 28
) -> bool:
    """Tell whether `word` occurs up to `before` characters before or `after` after the span."""
    start, end = span
    stands_before = word.search(text, max(0, start - before), start)
    return stands_before is not None or word.search(text, end, end + after) is not None


def leads_to(text: str, start: int, words: re.Pattern[str], *, reach: int = 40) -> bool:
    """Tell whether the text before `start` ends in `words`, a pattern that ends in `$`."""
    return words.search(text[max(0, start - reach) : start]) is not None
