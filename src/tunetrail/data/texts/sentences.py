"""Sentences: where a text can be cut so that what is left still reads whole. Knows no tokenizer; one is passed in."""

import bisect
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tunetrail.data.texts.prose import read_prose

CountTokens = Callable[[Sequence[str]], Sequence[int] | npt.NDArray[np.integer[Any]]]
"""Texts in, the number of tokens of each out."""

_MIN_SHARE_OF_PROSE = 0.5
_BATCH = 8
_CHARACTERS_PER_TOKEN = 4

# The sentence ends of Chinese and Japanese need no blank after them.
_STOP = re.compile(
    "[.!?\u2026]++[\"')\\]\u00bb\u201c\u201d\u2019]*+(?=\\s|\\Z)|[\u3002\uff01\uff1f]++[\u300d\u300f\u201d\uff09]*+"
)
_BLANKS = re.compile(r"\s*+")
_PARAGRAPH_END = re.compile(r"(?=\n[ \t]*+(?:\n|[-*+\u2022] |\d++[.)] |#))")
_LINE_END = re.compile(r"(?<=[^\n])(?=\n|\Z)")
_WORD_END = re.compile(r"(?<=\S)(?=\s|\Z)")
_ABBREVIATION = re.compile(
    r"""(?:^|[\s("'\[])(?:
      [^\W\d_](?:\.[^\W\d_])++                                           # e.g. i.e. U.S. z.B.
    | [A-Z]                                                              # J. Smith
    | [0-9]{1,2}                                                         # 1. Introduction, am 3. Mai
    | (?i:approx|bzw|ca|cf|dept|dr|ed|eds|gen|inc|jr|ltd|mr|mrs|ms|prof|ref|resp|sr|st|vgl|viz|vs)
    )\Z""",
    re.VERBOSE,
)
_BEFORE_NUMBER = re.compile(
    r"(?:^|\W)(?:art|chap|eq|fig|figs|no|nos|nr|p|pp|sec|vol)\Z", re.IGNORECASE
)
_LONGEST_ABBREVIATION = 16


def truncated(text: str, max_tokens: int, count_tokens: CountTokens) -> str:
    """Return the longest prefix of whole sentences that has at most `max_tokens` tokens; code is cut after a line.

    Where not even the first sentence or line fits, the prefix ends after a word, and else after a character.

    Args:
        text: Any text; it is returned unchanged if all of it fits.
        max_tokens: Tokens that the prefix may have, with those that `count_tokens` adds to every text.
        count_tokens: Gets a few texts at a time, a few times; they are hardly longer than what fits.

    Returns:
        The prefix without white space at its end; empty only if no character of `text` fits.
    """
    if _fits(text, max_tokens, count_tokens):
        return text
    is_prose = read_prose(text).share >= _MIN_SHARE_OF_PROSE
    ends = (
        _sentence_ends(text) if is_prose else [match.start() for match in _LINE_END.finditer(text)]
    )
    prefix = _longest(text, ends, max_tokens, count_tokens)
    if not prefix:
        words = [match.start() for match in _WORD_END.finditer(text)]
        prefix = _longest(text, words, max_tokens, count_tokens)
    return prefix or _longest(text, range(1, len(text) + 1), max_tokens, count_tokens)


def _fits(text: str, max_tokens: int, count_tokens: CountTokens) -> bool:
    beginning = text[: _BATCH * _CHARACTERS_PER_TOKEN * max(1, max_tokens)]
    if count_tokens([beginning])[0] > max_tokens:
        return False
    return len(beginning) == len(text) or count_tokens([text])[0] <= max_tokens


def _sentence_ends(text: str) -> list[int]:
    ends = {match.end() for match in _STOP.finditer(text) if _ends_sentence(text, match)}
    return sorted(ends.union(match.start() for match in _PARAGRAPH_END.finditer(text)))


def _ends_sentence(text: str, stop: re.Match[str]) -> bool:
    blanks = _BLANKS.match(text, stop.end())
    assert blanks is not None
    following = text[blanks.end() : blanks.end() + 2]
    if not following or "\n\n" in blanks[0]:
        return True
    if following[0].islower():
        return False
    if not stop[0].startswith(".") or stop[0].startswith(".."):
        return True
    before = text[max(0, stop.start() - _LONGEST_ABBREVIATION) : stop.start()]
    if following[0].isdigit() and _BEFORE_NUMBER.search(before):
        return False
    return not (
        _ABBREVIATION.search(before) or (following[1:] == "." and _is_single_letter(before))
    )


def _is_single_letter(before: str) -> bool:
    """Whether `before` ends in a letter that stands alone, as in `z. B.`"""
    return before[-1:].isalpha() and not before[-2:-1].isalnum()


def _longest(text: str, ends: Sequence[int], max_tokens: int, count_tokens: CountTokens) -> str:
    """Return the prefix up to the last of the ascending `ends` at which it fits, found in batches of candidates.

    The search takes for granted that a longer prefix has more tokens, which can be off by one or two where a cut splits
    a token; that the result fits was counted.
    """
    best = ""
    fitting, too_long = -1, len(ends)
    reach = _CHARACTERS_PER_TOKEN * max(1, max_tokens)
    while too_long - fitting > 1:
        if too_long == len(ends):
            # Nothing says yet how far a token reaches, and the end of the text may be megabytes away.
            chosen = {
                fitting + 1,
                *(bisect.bisect_right(ends, reach * factor) - 1 for factor in (1, 2, 4)),
            }
            reach *= 8
        else:
            chosen = {
                fitting + (too_long - fitting) * part // (_BATCH + 1)
                for part in range(1, _BATCH + 1)
            }
            chosen.add(fitting + 1)
        indexes = sorted(index for index in chosen if fitting < index < too_long)
        prefixes = [text[: ends[index]].rstrip() for index in indexes]
        for index, prefix, count in zip(indexes, prefixes, count_tokens(prefixes), strict=True):
            if count > max_tokens:
                too_long = index
                break
            fitting, best = index, prefix
    return best
