"""Spans of findings in a text, and checks of the words around them."""

import re

Span = tuple[int, int]
"""Start and end of a finding, in characters, as in `text[start:end]`."""

BLANK = "[ \u00a0\u202f]"
"""Pattern of the blank between groups of digits, some of them unbreakable."""

NUMBER_ENDS = r"(?!\w)(?![-./:][0-9])"
"""Pattern of the right edge of a number; the end of a sentence may follow."""


def first(characters: str) -> str:
    """Return the pattern of a number's first character, which doesn't continue a word or a number.

    The lookbehind follows the character: a pattern that begins with a set of characters is
    searched much faster.
    """
    return rf"{characters}(?<![\w+].)(?<![0-9][-./:].)"


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
