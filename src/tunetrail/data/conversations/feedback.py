"""Read feedback on an answer as applications record it: accepted, rejected, or no verdict."""

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

from tunetrail.errors import SampleError

FEEDBACK_COLUMNS = (
    "feedback",
    "rating",
    "thumbs",
    "annotation",
    "vote",
    "isUpvoted",
    "is_upvoted",
)
"""Columns of a conversation, or keys of one of its answers: LibreChat has `feedback`, Open WebUI
`annotation`, Vercel's chatbot `isUpvoted`."""

EDIT_KEYS = ("edited_output", "edited_content", "edited", "correction", "corrected")
"""Keys of an answer that hold what a person wrote in its place."""

# Keys under which tracing tools put the verdict when feedback is an object.
_NESTED_KEYS = ("rating", "score", "value")
_ACCEPTED = "up thumbsup thumbup positive accepted accept good like liked helpful true yes 👍"
_REJECTED = (
    "down thumbsdown thumbdown negative rejected reject bad dislike disliked unhelpful nothelpful "
    "false no 👎"
)
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(_ACCEPTED.split(), True),
    **dict.fromkeys(_REJECTED.split(), False),
    "neutral": None,
}
# Longer texts are comments, not verdicts.
_LONGEST_WORD = 20
_NUMBER = re.compile(r"[+-]?[0-9]{1,3}(\.[0-9]{1,6})?")

# 0 is no vote: some applications write it for a bad answer, others for no vote at all.
_VOTES = {1.0: True, -1.0: False}
_MOST_STARS = 5
_LEAST_ACCEPTED_STARS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What feedback says of an answer.

    Attributes:
        accepted: Whether the answer was accepted; otherwise it was rejected.
        wording: The feedback as a person reads it.
    """

    accepted: bool
    wording: str


def verdict_of(record: Mapping[str, Any]) -> Verdict | None:
    """Return the verdict in the columns `feedback`, `rating` and `thumbs`, None if there is none.

    - Words, in any case: up, thumbs_up, positive, accepted, good, like, helpful, yes, true,
      👍; and their opposites, down, thumbs_down, negative, rejected, bad, dislike, unhelpful, no,
      false, 👎. `neutral` is no verdict.
    - Booleans, and the votes 1 and -1. 0 is refused because applications disagree on it.
    - Under `rating` a number counts stars: 1 and 2 (below 3) reject, 3 to 5 accept.
    - An object holds one of these under `rating`, `score` or `value`; its other keys are ignored.

    Raises:
        SampleError: A value is none of these, or two columns disagree.
    """
    columns = [column for column in FEEDBACK_COLUMNS if column in record]
    return _agreed_verdict("feedback", [_read_verdict(name, record[name]) for name in columns])


def with_edits(messages: Sequence[Any]) -> list[Any]:
    """Return messages with each edited answer as a rejected one, followed by the accepted edit."""
    edited: list[Any] = []
    for message in messages:
        edit = _edit_of(message)
        if edit is None:
            edited.append(message)
            continue
        judged = (*FEEDBACK_COLUMNS, *EDIT_KEYS)
        original = {key: value for key, value in message.items() if key not in judged}
        accepted = {key: value for key, value in original.items() if key not in ("value", "parts")}
        edited.append({**original, "feedback": False})
        edited.append({**accepted, "content": edit, "feedback": True})
    return edited


def _edit_of(message: Any) -> str | None:
    """Return what a person wrote in place of an answer, None if nothing or the same."""
    if not isinstance(message, Mapping):
        return None
    text = message.get("content") or message.get("value")
    edits = [message.get(key) for key in EDIT_KEYS]
    # `edited: true` only says that there was an edit.
    texts = [edit for edit in edits if isinstance(edit, str) and edit.strip() and edit != text]
    is_answer = isinstance(text, str) and bool(text.strip())
    return texts[0] if texts and is_answer else None


def _agreed_verdict(name: str, verdicts: list[Verdict | None]) -> Verdict | None:
    stated = list(filter(None, verdicts))
    # Wordings may differ, such as "like" and 1; only what they say of the answer has to agree.
    if len({verdict.accepted for verdict in stated}) > 1:
        wordings = ", ".join(verdict.wording for verdict in stated)
        raise SampleError(
            f"{name} must hold one verdict on an answer, got {wordings}. Keep only one of them."
        )
    return stated[0] if stated else None


def _read_verdict(name: str, value: Any, *, is_nested: bool = False) -> Verdict | None:
    # In a table read by pandas, an absent vote is NaN.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None

    # Booleans first: to Python they are numbers as well.
    if isinstance(value, bool):
        return Verdict(accepted=value, wording=str(value).lower())
    if isinstance(value, str):
        return _verdict_of_text(name, value)
    if isinstance(value, numbers.Real):
        return _verdict_of_number(name, value)

    if isinstance(value, Mapping) and not is_nested:
        verdicts = []
        for key in filter(value.__contains__, _NESTED_KEYS):
            # Under `rating`, a number counts stars at this level too.
            # Open WebUI's annotation has votes there.
            is_stars = key == "rating" and name != "annotation"
            nested_name = "rating" if is_stars else name
            verdicts.append(_read_verdict(nested_name, value[key], is_nested=True))
        if verdicts or not value:
            return _agreed_verdict(name, verdicts)

    raise _unknown_feedback(name, type(value).__name__)


def _verdict_of_text(name: str, text: str) -> Verdict | None:
    wording = text.strip()
    if not wording:
        return None
    if len(wording) > _LONGEST_WORD:
        # Perhaps a person's comment, which mustn't be repeated in a log.
        raise _unknown_feedback(name, f"a text of {len(wording)} characters")

    # "Thumbs up", "thumbs_up" and "thumbs-up" are the same word.
    word = re.sub("[ _-]", "", wording.casefold())
    if word in _WORDS:
        accepted = _WORDS[word]
        return None if accepted is None else Verdict(accepted=accepted, wording=wording)

    if _NUMBER.fullmatch(wording):
        return _verdict_of_number(name, float(wording))
    raise _unknown_feedback(name, repr(wording))


def _verdict_of_number(name: str, value: SupportsFloat) -> Verdict:
    try:
        score = float(value)
    except OverflowError:
        score = math.inf

    if name == "rating" and 1 <= score <= _MOST_STARS:
        stars = f"{score:g} of {_MOST_STARS} stars"
        return Verdict(accepted=score >= _LEAST_ACCEPTED_STARS, wording=stars)
    if name != "rating" and score in _VOTES:
        return Verdict(accepted=_VOTES[score], wording=f"{score:g}")
    raise _unknown_feedback(name, f"{score:g}")


def _unknown_feedback(name: str, shown: str) -> SampleError:
    return SampleError(
        f"{name} must say whether an answer was accepted or rejected, got {shown}. Write up or "
        "down, true or false, 1 or -1, or stars from 1 to 5 as `rating`, or leave it out."
    )
