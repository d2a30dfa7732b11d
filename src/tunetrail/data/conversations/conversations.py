"""Conversations, as applications log them, into samples: chats, and pairs of question and answer. Knows no database.

`data.messages` reads the notations; here is decided what is learnt from:

- What an assistant says before the user's first turn is a greeting, not an answer, and left out.
- An answer that its feedback rejects is never learnt from. Where another one to the same question follows, the
  conversation goes on with that one: a regeneration (an assistant's message right behind the rejected one), or the
  same question asked again (which is then kept once). Else the conversation ends there: what follows builds on it.
- A turn that holds more than text (an image, say), or an empty answer, ends it as well.
- One chat for each conversation: all up to the last answer before that end.
- One pair for each user's turn with an answer, behind that end as well, since a pair has no context: the first turn
  always, later ones of five words or more, as "and then?" says nothing by itself. (Two characters of Chinese or
  Japanese count as a word, and four of Thai, Lao, Burmese or Khmer: those scripts put no spaces between words.)
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from typing import Any

from tunetrail.data.conversations.feedback import FEEDBACK_COLUMNS, verdict_of
from tunetrail.data.conversations.messages import (
    MESSAGE_COLUMNS,
    Turn,
    joined,
    messages_of,
    read_turns,
)
from tunetrail.errors import SampleError
from tunetrail.samples import (
    GROUP_COLUMN,
    WEIGHT_COLUMN,
    LeftOut,
    Sample,
    SampleKind,
    checked_timestamp,
    parse_sample,
)

ID_COLUMNS = (GROUP_COLUMN, "conversation_id", "id")
TIME_COLUMNS = ("timestamp", "created_at", "create_time")
LEAST_WORDS = 5
"""Of a later question that can stand alone."""

_USED_COLUMNS = {*MESSAGE_COLUMNS, *ID_COLUMNS, *TIME_COLUMNS, *FEEDBACK_COLUMNS, WEIGHT_COLUMN}
_WITH_NAN = (float, datetime)  # NaN, and pandas' NaT
_EAST_ASIAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_SOUTHEAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(
    rf"[{_EAST_ASIAN}]{{1,2}}|[{_SOUTHEAST_ASIAN}]{{1,4}}|[^\s{_EAST_ASIAN}{_SOUTHEAST_ASIAN}]+",
)


@dataclass(frozen=True, kw_only=True)
class Derived:
    """What one conversation gives.

    Attributes:
        samples: At most one chat, then the pairs; all of one group.
        rejected: Answers that feedback rejects, with their questions and the tool calls between.
        unusable: Where it ends before its last turn: the rest; and unreadable answers that were given again.
        short_questions: Questions that can't stand alone, with their answers. They are in the chat or in the rest.
    """

    samples: tuple[Sample, ...] = ()
    rejected: tuple[LeftOut, ...] = ()
    unusable: tuple[LeftOut, ...] = ()
    short_questions: tuple[LeftOut, ...] = ()

    @property
    def kept(self) -> tuple[Sample | LeftOut, ...]:
        """All that must be stored so that nothing of the conversation is lost."""
        return (*self.samples, *self.rejected, *self.unusable)


def derive(row: Mapping[str, Any]) -> Derived:
    """Return the samples of one logged conversation, and what is left out of it.

    The messages are in `messages`, `conversation` or `conversations`. Optional are the conversation's id (`group`,
    `conversation_id` or `id`, the first present; else a digest of its first question and answer stands for it), its
    time (`timestamp`, `created_at` or `create_time`), its samples' `weight`, and feedback (see `data.feedback`), of the
    conversation or of one answer; an answer's own counts more. Other columns become metadata of the chat.

    Raises:
        SampleError: It's malformed, or has no answer to a user.
    """
    turns = _without_greeting(read_turns(messages_of(row), verdict_of(row)))
    group = _group_of(row, turns)
    shared: dict[str, Any] = {GROUP_COLUMN: group, "timestamp": _time_of(row)}
    if row.get(WEIGHT_COLUMN) is not None:
        shared[WEIGHT_COLUMN] = row[WEIGHT_COLUMN]
    stretches, rejected, unusable = _sorted_out(turns, group)
    pairs, short_questions = _pairs(stretches, shared)
    return Derived(
        samples=(*_chats(stretches[0], shared, row), *pairs),
        rejected=tuple(rejected),
        unusable=tuple(unusable),
        short_questions=short_questions,
    )


def _without_greeting(turns: Sequence[Turn]) -> list[Turn]:
    first = next(
        (position for position, turn in enumerate(turns) if turn.role == "user"), len(turns)
    )
    if all(turn.role != "assistant" for turn in turns[first:]):
        raise SampleError(
            "messages must have an assistant's answer to a user, got none. Leave such conversations out."
        )
    return [*(turn for turn in turns[:first] if turn.role == "system"), *turns[first:]]


def _present(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, Any]:
    for column in columns:
        value = row.get(column)
        if value is not None and not (isinstance(value, str) and not value) and not _is_nan(value):
            return column, value
    return "", None


def _is_nan(value: Any) -> bool:
    return isinstance(value, _WITH_NAN) and value != value


def _group_of(row: Mapping[str, Any], turns: Sequence[Turn]) -> str:
    column, value = _present(row, ID_COLUMNS)
    if isinstance(value, str | int):
        return str(value)
    if column:
        raise SampleError(f"{column} must be a string or an integer, got {type(value).__name__}.")
    first = [
        next(turn.text for turn in turns if turn.role == role) for role in ("user", "assistant")
    ]
    return "conversation-" + hashlib.sha256(json.dumps(first).encode()).hexdigest()[:16]


def _time_of(row: Mapping[str, Any]) -> str | None:
    column, value = _present(row, TIME_COLUMNS)
    return checked_timestamp(value, column) if column else None


def _sorted_out(
    turns: Sequence[Turn], group: str
) -> tuple[list[list[Turn]], list[LeftOut], list[LeftOut]]:
    """Return the stretches of turns that follow from each other, the rejected answers, and what else is left out."""
    stretches: list[list[Turn]] = [[]]
    rejected, unusable = [], []
    question: Turn | None = None
    untold: list[Turn] = []
    for position, turn in enumerate(turns):
        if turn.role == "user":
            question, untold = turn, [turn]
        if not turn.problem:
            stretches[-1].append(turn)
            continue
        given_again = _given_again(turns, position, question)
        if given_again != "assistant":
            untold = _taken_back(stretches[-1], question if given_again else None)
        if turn.rejected:
            rejected.append(_left_out(group, turn.problem, [*untold, turn]))
            untold = []
        elif given_again:
            unusable.append(_left_out(group, turn.problem, [*untold, turn]))
            untold = []
        if not given_again:
            rest = [] if len(stretches) > 1 else [*untold, *turns[position + turn.rejected :]]
            if rest:
                reason = f"{turn.problem}, and the rest of the conversation builds on it"
                unusable.append(_left_out(group, reason, rest))
            stretches.append([])
    return stretches, rejected, unusable


def _given_again(turns: Sequence[Turn], position: int, question: Turn | None) -> str:
    """Return who goes on so that another answer to the same question comes: assistant, user, or nobody."""
    if turns[position].role != "assistant" or position + 1 == len(turns):
        return ""
    following = turns[position + 1]
    if following.role == "user" and question is not None and not question.problem:
        return "user" if following.text.strip() == question.text.strip() else ""
    return "assistant" if following.role == "assistant" else ""


def _taken_back(stretch: list[Turn], question: Turn | None) -> list[Turn]:
    """Take the end of the stretch off and return it: from the question on, or all behind the last answer.

    Tool calls are no answers: those before an answer go with it.
    """
    backwards = reversed(range(len(stretch)))
    if question is not None:
        start = next((position for position in backwards if stretch[position] is question), 0)
    else:
        start = next((position + 1 for position in backwards if _is_answer(stretch[position])), 0)
    taken = stretch[start:]
    del stretch[start:]
    return taken


def _is_answer(turn: Turn) -> bool:
    return turn.role == "assistant" and not turn.calls


def _left_out(group: str, reason: str, turns: Sequence[Turn]) -> LeftOut:
    messages = [message for turn in turns for message in turn.messages]
    return LeftOut(
        kind=SampleKind.LLM, row={GROUP_COLUMN: group, "messages": messages}, reason=reason
    )


def _chats(
    stretch: Sequence[Turn], shared: Mapping[str, Any], row: Mapping[str, Any]
) -> list[Sample]:
    turns = joined(stretch)
    while turns and turns[-1].role != "assistant":
        turns.pop()
    if not turns:
        return []
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    metadata = {
        str(name): value
        for name, value in row.items()
        if name not in _USED_COLUMNS and value is not None
    }
    return [
        replace(parse_sample({"messages": messages, **shared}, SampleKind.LLM), metadata=metadata)
    ]


def _pairs(
    stretches: Sequence[Sequence[Turn]], shared: Mapping[str, Any]
) -> tuple[list[Sample], tuple[LeftOut, ...]]:
    pairs, short_questions = [], []
    first = next((turn for turn in stretches[0] if turn.role == "user"), None)
    for stretch in stretches:
        for question, answer in _answered(stretch):
            row = {"anchor": question.text, "positive": answer.text, **shared}
            least = 1 if question is first else LEAST_WORDS
            words = sum(1 for _ in islice(_WORD.finditer(question.text), least))
            if words == least:
                pairs.append(parse_sample(row, SampleKind.EMBEDDING))
            else:
                reason = (
                    f"a later question must have {LEAST_WORDS} words to stand alone, got {words}"
                )
                short_questions.append(LeftOut(kind=SampleKind.EMBEDDING, row=row, reason=reason))
    return pairs, tuple(short_questions)


def _answered(stretch: Sequence[Turn]) -> Iterator[tuple[Turn, Turn]]:
    """Yield each user's turn with the first answer to it that calls no tool."""
    question = None
    for turn in joined(stretch):
        if turn.role == "user":
            question = turn
        elif question is not None and _is_answer(turn):
            yield question, turn
            question = None
