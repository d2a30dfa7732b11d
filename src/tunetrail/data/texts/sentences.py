"""Cut texts after whole sentences, so that a shortened text still reads as a text."""

import bisect
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tunetrail.data.texts.prose import read_prose

CountTokens = Callable[[Sequence[str]], Sequence[int] | npt.NDArray[np.integer[Any]]]
"""From texts to the number of tokens of each."""

_MIN_SHARE_OF_PROSE = 0.5
# Candidates counted at once: a tokenizer is faster with several texts than with one at a time.
_BATCH = 8
_CHARACTERS_PER_TOKEN = 4

# The sentence ends of Chinese and Japanese need no blank after them.
_STOP = re.compile(
    "[.!?\u2026]++[\"')\\]\u00bb\u201c\u201d\u2019]*+(?=\\s|\\Z)"
    "|[\u3002\uff01\uff1f]++[\u300d\u300f\u201d\uff09]*+"
)
_BLANKS = re.compile(r"\s*+")
# A paragraph ends before an empty line, an item of a list or a heading.
_PARAGRAPH_END = re.compile(r"(?=\n[ \t]*+(?:\n|[-*+\u2022] |\d++[.)] |#))")
_LINE_END = re.compile(r"(?<=[^\n])(?=\n|\Z)")
_WORD_END = re.compile(r"(?<=\S)(?=\s|\Z)")
_ABBREVIATION = re.compile(
    r"""(?:^|[\s("'\[])(?:
      [^\W\d_](?:\.[^\W\d_])++    # e.g. i.e. U.S. z.B.
    | [A-Z]                       # J. Smith
    | [0-9]{1,2}                  # 1. Introduction, am 3. Mai
    | (?i:approx|bzw|ca|cf|dept|dr|ed|eds|gen|inc|jr|ltd|mr|mrs|ms|prof|ref|resp|sr|st|vgl|viz|vs)
    )\Z""",
    re.VERBOSE,
)
_BEFORE_NUMBER = re.compile(
    r"(?:^|\W)(?:art|chap|eq|fig|figs|no|nos|nr|p|pp|sec|vol)\Z", re.IGNORECASE
)
_LONGEST_ABBREVIATION = 16


def truncated(text: str, max_tokens: int, count_tokens: CountTokens) -> str:
    """Return the longest prefix of whole sentences that has at most `max_tokens` tokens.

    Code is cut after a line. If not even the first sentence or line fits, the prefix ends after a
    word, and if no word fits, after a character.

    Args:
        text: Any text; it is returned unchanged if all of it fits.
        max_tokens: Tokens that the prefix may have, including the ones that `count_tokens` adds to
            every text.
        count_tokens: Called a few times with a few texts, which are hardly longer than the prefix.

    Returns:
        The prefix without white space at its end; empty only if no character of `text` fits.
    """
    if _fits(text, max_tokens, count_tokens):
        return text

    is_prose = read_prose(text).share >= _MIN_SHARE_OF_PROSE
    ends = _sentence_ends(text) if is_prose else _starts_of_matches(_LINE_END, text)
    prefix = _longest_prefix(text, ends, max_tokens, count_tokens)

    if not prefix:
        words = _starts_of_matches(_WORD_END, text)
        prefix = _longest_prefix(text, words, max_tokens, count_tokens)
    return prefix or _longest_prefix(text, range(1, len(text) + 1), max_tokens, count_tokens)


def _starts_of_matches(pattern: re.Pattern[str], text: str) -> list[int]:
    return [match.start() for match in pattern.finditer(text)]


def _fits(text: str, max_tokens: int, count_tokens: CountTokens) -> bool:
    # Megabytes that can't fit aren't tokenized: their beginning says enough.
    beginning = text[: _BATCH * _CHARACTERS_PER_TOKEN * max(1, max_tokens)]
    if count_tokens([beginning])[0] > max_tokens:
        return False
    return len(beginning) == len(text) or count_tokens([text])[0] <= max_tokens


def _sentence_ends(text: str) -> list[int]:
    ends = {match.end() for match in _STOP.finditer(text) if _ends_sentence(text, match)}
    return sorted(ends.union(_starts_of_matches(_PARAGRAPH_END, text)))


def _ends_sentence(text: str, stop: re.Match[str]) -> bool:
    """Tell whether a stop ends a sentence, judged by the characters before and after it."""
    blanks = _BLANKS.match(text, stop.end())
    assert blanks is not None
    following = text[blanks.end() : blanks.end() + 2]
    if not following or "\n\n" in blanks[0]:
        return True
    if following[0].islower():
        return False
    if not stop[0].startswith(".") or stop[0].startswith(".."):
        return True

    # A single full stop may belong to an abbreviation.
    before = text[max(0, stop.start() - _LONGEST_ABBREVIATION) : stop.start()]
    if following[0].isdigit() and _BEFORE_NUMBER.search(before):
        return False
    is_spaced_abbreviation = following[1:] == "." and _is_single_letter(before)
    return not is_spaced_abbreviation and _ABBREVIATION.search(before) is None


def _is_single_letter(before: str) -> bool:
    """Tell whether `before` ends in a letter that stands alone, as in `z. B.`"""
    return before[-1:].isalpha() and not before[-2:-1].isalnum()


def _longest_prefix(
    text: str, ends: Sequence[int], max_tokens: int, count_tokens: CountTokens
) -> str:
    """Return the prefix up to the last of the ascending `ends` at which it fits.

    The search assumes that a longer prefix has more tokens, which can be off by one or two if a cut
    splits a token; the result itself was counted.
    """
    best = ""
    fitting, too_long = -1, len(ends)
    reach = _CHARACTERS_PER_TOKEN * max(1, max_tokens)

    while too_long - fitting > 1:
        if too_long == len(ends):
            # Nothing says yet how far a token reaches, and the end may be megabytes away: look at
            # the expected length, and further away with every round.
            reaches = (reach, 2 * reach, 4 * reach)
            indexes = {bisect.bisect_right(ends, characters) - 1 for characters in reaches}
            reach *= 8
        else:
            steps = np.arange(1, _BATCH + 1)
            indexes = set((fitting + (too_long - fitting) * steps // (_BATCH + 1)).tolist())

        indexes.add(fitting + 1)
        candidates = sorted(index for index in indexes if fitting < index < too_long)
        prefixes = [text[: ends[index]].rstrip() for index in candidates]
        for index, prefix, count in zip(candidates, prefixes, count_tokens(prefixes), strict=True):
            if count > max_tokens:
                too_long = index
                break
            fitting, best = index, prefix
    return best
