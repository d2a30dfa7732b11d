"""Spans: where in a text something was found, and what stands beside it. Knows nothing of what was found."""

import re

Span = tuple[int, int]
"""Start and end of a finding, in characters, as in `text[start:end]`."""

BLANK = "[ \u00a0\u202f]"
"""What people put between groups of digits, for use inside patterns."""

NUMBER_ENDS = r"(?!\w)(?![-./:][0-9])"
"""Right edge of such a number; the end of a sentence may follow."""


def first(characters: str) -> str:
    """Return a pattern of a number's first character, which isn't the rest of a word, a date or a longer number.

    The look-behind follows the character: a pattern that begins with a set of characters is searched much faster.
    """
    return rf"{characters}(?<![\w+].)(?<![0-9][-./:].)"


def stands_near(
    text: str, span: Span, word: re.Pattern[str], *, before: int = 48, after: int = 28
) -> bool:
    """Whether `word` is found in the `before` characters ahead of the span or in the `after` ones behind it."""
    start, end = span
    return word.search(text, max(0, start - before), start) is not None or (
        word.search(text, end, end + after) is not None
    )


def leads_to(text: str, start: int, words: re.Pattern[str], *, reach: int = 40) -> bool:
    """Whether the text ahead of `start` ends in `words`, a pattern that ends in `$`."""
    return words.search(text[max(0, start - reach) : start]) is not None
