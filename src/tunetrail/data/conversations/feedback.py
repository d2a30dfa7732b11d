"""Read feedback on an answer as applications record it: accepted, rejected, or no verdict.

docs/data.md has the table of all forms.
"""

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

from tunetrail.data.conversations.rating_scales import (
    RatingScale,
    current_scale,
    is_accepted,
    shown_rating,
)
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

SCORE_COLUMNS = ("scores", "responses")
"""Lists of what several people or programs say of an answer, as Langfuse and Argilla export it."""

EDIT_KEYS = ("edited_output", "edited_content", "edited", "correction", "corrected")
"""Keys of an answer that hold what a person wrote in its place."""

# Keys under which tracing tools put the verdict when feedback is an object.
_NESTED_KEYS = ("rating", "score", "value")

_ACCEPTING_LABELS = "true yes good right correct accepted desirable"
_REJECTING_LABELS = "false no bad wrong incorrect rejected undesirable"
LABEL_VERDICTS = {
    **dict.fromkeys([*_ACCEPTING_LABELS.split(), "1", "1.0"], True),
    **dict.fromkeys([*_REJECTING_LABELS.split(), "0", "0.0", "-1"], False),
}
"""Verdicts that are none but verdicts: in a column of labels, other words are names of classes."""

_ACCEPTING = "up thumbsup thumbup upvote positive accept like liked helpful 👍"
_REJECTING = (
    "down thumbsdown thumbdown downvote negative reject dislike disliked unhelpful nothelpful 👎"
)
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys([*_ACCEPTING_LABELS.split(), *_ACCEPTING.split()], True),
    **dict.fromkeys([*_REJECTING_LABELS.split(), *_REJECTING.split()], False),
    "neutral": None,
}
# Longer texts are comments, not verdicts.
_LONGEST_WORD = 20
_NUMBER = re.compile(r"[+-]?[0-9]{1,3}(\.[0-9]{1,6})?")
_RATIO = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?(%|/ ?5|/ ?10|/ ?100)")
_RATIO_SCALES = {
    "%": RatingScale.PERCENT,
    "/5": RatingScale.STARS,
    "/10": RatingScale.TEN,
    "/100": RatingScale.PERCENT,
}
# The scores that are a person's verdict on the answer: others are measures of a program.
_VERDICT_NAMES = frozenset(
    ("feedback", "rating", "thumbs", "vote", "userfeedback", "userrating", "userthumbs")
)


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
    """Return the verdict in a record's `FEEDBACK_COLUMNS` and `SCORE_COLUMNS`, None without one.

    - Words, in any case: up, thumbs_up, positive, accepted, good, like, helpful, yes, true,
      👍; and their opposites, down, thumbs_down, negative, rejected, bad, dislike, unhelpful, no,
      false, 👎. `neutral` is no verdict.
    - Booleans, and the votes 1 and -1. 0 is refused because applications disagree on it.
    - `4/5`, `7/10` and `80 %`; from the middle of the scale on, an answer is accepted.
    - Under `rating`, a number is on the scale of its file (see `rating_scales`): 1 to 5 stars
      unless other numbers occur there.
    - An object holds one of these under `rating`, `score` or `value`; its other keys are ignored.

    Raises:
        SampleError: A value is none of these, or two columns disagree.
    """
    columns = [column for column in FEEDBACK_COLUMNS if column in record]
    verdicts = [_read_verdict(name, record[name]) for name in columns]
    for column in SCORE_COLUMNS:
        if column in record:
            verdicts += _read_scores(record[column])
    return _agreed_verdict("feedback", verdicts)


def with_edits(messages: Sequence[Any]) -> list[Any]:
    """Return messages with each edited answer as a rejected one, followed by the accepted edit."""
    edited: list[Any] = []
    for message in messages:
        edit = _edit_of(message)
        if edit is None:
            edited.append(message)
            continue
        judged = (*FEEDBACK_COLUMNS, *SCORE_COLUMNS, *EDIT_KEYS)
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


def _read_scores(value: Any) -> list[Verdict | None]:
    """Return the verdicts in a list of Langfuse's scores or Argilla's responses.

    A list of anything else has none.
    """
    verdicts = []
    for score in value if isinstance(value, list | tuple) else ():
        if not isinstance(score, Mapping):
            continue
        # A draft, or a discarded response, is no verdict yet.
        answers = score.get("values")
        if isinstance(answers, Mapping) and score.get("status", "submitted") == "submitted":
            verdicts += [_read_score(name, answer) for name, answer in answers.items()]
        elif isinstance(score.get("name"), str):
            verdicts.append(_read_score(score["name"], score))
    return verdicts


def _read_score(name: Any, score: Any) -> Verdict | None:
    word = re.sub("[ _-]", "", str(name).casefold())
    if word not in _VERDICT_NAMES or not isinstance(score, Mapping):
        return None
    value = score.get("value")
    if score.get("dataType") == "BOOLEAN" and value in (0, 1):
        value = bool(value)
    elif score.get("dataType") == "CATEGORICAL":
        value = score.get("stringValue", value)
    return _read_verdict("rating" if "rating" in word else "feedback", value, is_nested=True)


def _read_verdict(name: str, value: Any, *, is_nested: bool = False) -> Verdict | None:
    """Return what a value says of an answer, whatever its type; None if it says nothing."""
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
            # Under `rating`, a number is on the file's scale at this level too.
            # Open WebUI's annotation has votes there.
            is_rating = key == "rating" and name != "annotation"
            nested_name = "rating" if is_rating else name
            verdicts.append(_read_verdict(nested_name, value[key], is_nested=True))
        if verdicts or not value:
            return _agreed_verdict(name, verdicts)

    raise _unknown_feedback(name, type(value).__name__)


def _verdict_of_text(name: str, text: str) -> Verdict | None:
    """Return what a word, a ratio or a number says of an answer; None for a neutral one."""
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

    ratio = _RATIO.fullmatch(wording)
    if ratio is not None:
        accepted = is_accepted(float(ratio[1]), _RATIO_SCALES[ratio[2].replace(" ", "")])
        if accepted is not None:
            return Verdict(accepted=accepted, wording=wording)
    if _NUMBER.fullmatch(wording):
        return _verdict_of_number(name, float(wording))
    raise _unknown_feedback(name, repr(wording))


def _verdict_of_number(name: str, value: SupportsFloat) -> Verdict | None:
    try:
        score = float(value)
    except OverflowError:
        score = math.inf

    scale = current_scale() if name == "rating" else RatingScale.VOTES
    if name == "rating" and scale is RatingScale.VOTES_AND_NONE and score == 0:
        return None
    accepted = is_accepted(score, scale)
    if accepted is None:
        raise _unknown_feedback(name, f"{score:g}", scale)
    return Verdict(accepted=accepted, wording=shown_rating(score, scale))


def _unknown_feedback(name: str, shown: str, scale: RatingScale = RatingScale.STARS) -> SampleError:
    ratings = "stars from 1 to 5 as `rating`"
    if name == "rating" and scale is not RatingScale.STARS:
        ratings = f"a `rating` like the others of this file ({scale})"
    return SampleError(
        f"{name} must say whether an answer was accepted or rejected, got {shown}. Write up or "
        f"down, true or false, 1 or -1, or {ratings}, or leave it out."
    )
