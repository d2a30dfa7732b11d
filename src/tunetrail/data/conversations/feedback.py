"""Feedback on an answer, as applications record it: accepted, rejected, or no word. Never guesses; knows no turns."""

import math
import numbers
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

from tunetrail.errors import SampleError

FEEDBACK_COLUMNS = ("feedback", "rating", "thumbs")
"""Of a conversation, or of one of its answers."""

_NESTED = ("rating", "score", "value")
_ACCEPTED = "up thumbsup thumbup positive accepted accept good like liked helpful true yes 👍"
_REJECTED = "down thumbsdown thumbdown negative rejected reject bad dislike disliked unhelpful nothelpful false no 👎"
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(_ACCEPTED.split(), True),
    **dict.fromkeys(_REJECTED.split(), False),
    "neutral": None,
}
_LONGEST_WORD = 20
_NUMBER = re.compile(r"[+-]?[0-9]{1,3}(\.[0-9]{1,6})?")
_VOTES = {1.0: True, -1.0: False}
_MOST_STARS = 5
_LEAST_ACCEPTED_STARS = 3
_WAY_OUT = (
    "Write up or down, true or false, 1 or -1, or stars from 1 to 5 as `rating`, or leave it out."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the feedback says of an answer; `given` is the feedback as a person reads it."""

    accepted: bool
    given: str


def verdict_of(record: Mapping[str, Any]) -> Verdict | None:
    """Return the verdict in the columns `feedback`, `rating` and `thumbs`, or None where they say nothing.

    - Words: up, thumbs_up, positive, accepted, good, like, helpful, yes, true, 👍; and their opposites, down,
      thumbs_down, negative, rejected, bad, dislike, unhelpful, no, false, 👎; in any case. `neutral` says nothing.
    - Booleans, and the votes 1 and -1. (0 is refused: some write it for a bad answer, others for no vote.)
    - Under `rating` a number counts stars: 1 and 2 (below 3) reject, 3 to 5 accept.
    - An object holds one of these under `rating`, `score` or `value`; its other keys are ignored.

    Raises:
        SampleError: A value is none of these, or two columns disagree.
    """
    return _agreed(
        (_verdict(name, record[name], depth=0) for name in FEEDBACK_COLUMNS if name in record),
        "feedback",
    )


def _agreed(verdicts: Iterable[Verdict | None], name: str) -> Verdict | None:
    found = [verdict for verdict in verdicts if verdict is not None]
    if len({verdict.accepted for verdict in found}) > 1:
        given = ", ".join(verdict.given for verdict in found)
        raise SampleError(
            f"{name} must say one thing of an answer, got {given}. Remove what doesn't count."
        )
    return found[0] if found else None


def _verdict(name: str, value: Any, depth: int) -> Verdict | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return Verdict(accepted=value, given=str(value).lower())
    if isinstance(value, str):
        return _verdict_of_text(name, value)
    if isinstance(value, numbers.Real):
        return _verdict_of_number(name, value)
    if isinstance(value, Mapping) and depth == 0:
        nested = [key for key in _NESTED if key in value]
        if nested or not value:
            inner = (
                _verdict("rating" if key == "rating" else name, value[key], depth=1)
                for key in nested
            )
            return _agreed(inner, name)
    raise _unknown(name, f"{type(value).__name__}")


def _verdict_of_text(name: str, text: str) -> Verdict | None:
    shown = text.strip()
    if not shown:
        return None
    if len(shown) > _LONGEST_WORD:
        raise _unknown(
            name, f"a text of {len(shown)} characters"
        )  # a comment perhaps: not to be repeated in a log
    word = shown.casefold().translate({ord(mark): None for mark in " -_"})
    if word in _WORDS:
        accepted = _WORDS[word]
        return None if accepted is None else Verdict(accepted=accepted, given=shown)
    if _NUMBER.fullmatch(shown):
        return _verdict_of_number(name, float(shown))
    raise _unknown(name, repr(shown))


def _verdict_of_number(name: str, value: SupportsFloat) -> Verdict:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if name == "rating":
        if 1 <= number <= _MOST_STARS:
            return Verdict(
                accepted=number >= _LEAST_ACCEPTED_STARS, given=f"{number:g} of {_MOST_STARS} stars"
            )
    elif number in _VOTES:
        return Verdict(accepted=_VOTES[number], given=f"{number:g}")
    raise _unknown(name, f"{number:g}")


def _unknown(name: str, shown: str) -> SampleError:
    return SampleError(
        f"{name} must say whether an answer was accepted or rejected, got {shown}. {_WAY_OUT}"
    )
