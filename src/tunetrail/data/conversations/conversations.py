"""Turn logged conversations into samples: chats, and pairs of question and answer.

`messages` reads the notations; this module decides what is learnt from:

- What an assistant says before the user's first turn is a greeting, not an answer, and left out.
- An answer that feedback rejects is never learnt from. If another answer to the same question
  follows, the conversation goes on with it: a regeneration (an assistant's message right after the
  rejected one), or the same question asked again (which is then stored once). Otherwise the
  conversation ends there, because everything after a rejected answer builds on it.
- A turn that holds more than text (an image, say), or an empty answer, ends it as well.
- Each conversation gives one chat: everything up to the last answer before that end.
- Each user's turn with an answer gives one pair, after that end as well, since a pair has no
  context: the first turn always, later ones from five words on, as "and then?" says nothing by
  itself. (Two characters of Chinese or Japanese count as a word, and four of Thai, Lao, Burmese or
  Khmer: those scripts put no spaces between words.)
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, islice
from typing import Any

from tunetrail.data.conventions.verdicts import check_labels
from tunetrail.data.conversations.feedback import FEEDBACK_COLUMNS, verdict_of, with_edits
from tunetrail.data.conversations.messages import (
    MESSAGE_COLUMNS,
    Turn,
    chat_message,
    joined,
    messages_of,
    read_turns,
)
from tunetrail.data.conversations.preferences import PreferenceFinder, judged_turns
from tunetrail.errors import SampleError
from tunetrail.samples import (
    GROUP_COLUMN,
    TOOLS_COLUMN,
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
"""Words that a later question must have to stand alone."""

_USED_COLUMNS = {
    *MESSAGE_COLUMNS,
    *ID_COLUMNS,
    *TIME_COLUMNS,
    *FEEDBACK_COLUMNS,
    WEIGHT_COLUMN,
    TOOLS_COLUMN,
    "system",
}
_WITH_NAN = (float, datetime)  # pandas' NaT is a datetime that is not equal to itself
# Scripts without spaces between words; a word is about two characters, or four with vowel signs.
_EAST_ASIAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_SOUTHEAST_ASIAN = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(
    rf"[{_EAST_ASIAN}]{{1,2}}|[{_SOUTHEAST_ASIAN}]{{1,4}}|[^\s{_EAST_ASIAN}{_SOUTHEAST_ASIAN}]+",
)


@dataclass(frozen=True, kw_only=True)
class Derived:
    """The samples of one conversation, and the turns left out of it.

    Attributes:
        samples: At most one chat, then the pairs, all of one group.
        rejected: Answers that feedback rejects, with their questions and the tool calls between.
        unusable: The end of a conversation that can't be learnt from, and unreadable answers that
            another answer replaced.
        short_questions: Questions that can't stand alone, with their answers. They are also in the
            chat or among the unusable turns.
        judged: Preferences, then verdicts on single answers, of the same group.
    """

    samples: tuple[Sample, ...] = ()
    rejected: tuple[LeftOut, ...] = ()
    unusable: tuple[LeftOut, ...] = ()
    short_questions: tuple[LeftOut, ...] = ()
    judged: tuple[Sample, ...] = ()

    @property
    def kept(self) -> tuple[Sample | LeftOut, ...]:
        """Everything that must be stored so that nothing of the conversation is lost."""
        return (*self.samples, *self.judged, *self.rejected, *self.unusable)


def derive(row: Mapping[str, Any], finder: PreferenceFinder | None = None) -> Derived:
    """Return the samples of one logged conversation, and the turns left out of it.

    The messages are in `messages`, `conversation` or `conversations`. All other columns are
    optional:

    - `group`, `conversation_id` or `id`: the conversation's id, from the first of them that is
      present; without one, a digest of the first question and answer stands for it.
    - `timestamp`, `created_at` or `create_time`: its time.
    - `weight`: of its samples.
    - `system`: its system turn; `tools`: the tools that the assistant may call.
    - `label`, `kto_tag` or `accepted`: no sample at all if it is false.
    - Feedback on the conversation (see `feedback`); feedback on a single answer takes precedence.

    Columns with other names become metadata of the chat.

    Args:
        row: The conversation.
        finder: Remembers the judged answers of earlier conversations; without one, preferences are
            found within this conversation.

    Raises:
        SampleError: The conversation is malformed, or has no answer to a user.
    """
    check_labels(row, "the answers are good ones")
    messages = messages_of(row)
    # ShareGPT's exports have the system turn in a column of its own.
    if isinstance(row.get("system"), str) and row["system"].strip():
        messages = [{"role": "system", "content": row["system"]}, *messages]
    turns = _without_greeting(read_turns(with_edits(messages), verdict_of(row)))
    group = _group_of(row, turns)
    shared: dict[str, Any] = {GROUP_COLUMN: group, "timestamp": _time_of(row)}
    if row.get(WEIGHT_COLUMN) is not None:
        shared[WEIGHT_COLUMN] = row[WEIGHT_COLUMN]

    stretches, rejected, unusable = _split_at_problems(turns, group)
    pairs, short_questions = _derive_pairs(stretches, shared)

    judged = list(judged_turns(turns))
    return Derived(
        judged=tuple((finder or PreferenceFinder()).samples(judged, shared)),
        samples=(*_derive_chat(stretches[0], shared, row), *pairs),
        rejected=tuple(rejected),
        unusable=tuple(unusable),
        short_questions=tuple(short_questions),
    )


def _without_greeting(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns without what an assistant says before the user's first turn."""
    roles = [turn.role for turn in turns]
    first = roles.index("user") if "user" in roles else len(turns)
    if "assistant" not in roles[first:]:
        raise SampleError(
            "messages must have an assistant's answer to a user, got none. Leave the row out."
        )
    instructions = [turn for turn in turns[:first] if turn.role == "system"]
    return [*instructions, *turns[first:]]


def _first_present(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, Any]:
    """Return the name and the value of the first column that isn't empty, ("", None) if all are."""
    for column in columns:
        value = row.get(column)
        is_empty_text = isinstance(value, str) and not value
        if value is not None and not is_empty_text and not _is_nan(value):
            return column, value
    return "", None


def _is_nan(value: Any) -> bool:
    return isinstance(value, _WITH_NAN) and value != value


def _group_of(row: Mapping[str, Any], turns: Sequence[Turn]) -> str:
    column, value = _first_present(row, ID_COLUMNS)
    if isinstance(value, str | int):
        return str(value)
    if column:
        raise SampleError(f"{column} must be a string or an integer, got {type(value).__name__}.")

    # Without an id, the same conversation logged twice must still be one group.
    question = next(turn.text for turn in turns if turn.role == "user")
    answer = next(turn.text for turn in turns if turn.role == "assistant")
    digest = hashlib.sha256(json.dumps([question, answer]).encode()).hexdigest()
    return f"conversation-{digest[:16]}"


def _time_of(row: Mapping[str, Any]) -> str | None:
    column, value = _first_present(row, TIME_COLUMNS)
    return checked_timestamp(value, column) if column else None


def _split_at_problems(
    turns: Sequence[Turn], group: str
) -> tuple[list[list[Turn]], list[LeftOut], list[LeftOut]]:
    """Cut the turns wherever an answer is rejected or unreadable and no other answer replaces it.

    Returns:
        The stretches (the first is the chat), the rejected answers, and the unusable turns.
    """
    stretches: list[list[Turn]] = [[]]
    rejected: list[LeftOut] = []
    unusable: list[LeftOut] = []
    question: Turn | None = None
    # Turns taken out of the stretches that aren't yet among the rejected or the unusable.
    unreported: list[Turn] = []

    for position, turn in enumerate(turns):
        if turn.role == "user":
            question, unreported = turn, [turn]
        if not turn.problem:
            stretches[-1].append(turn)
            continue

        # After a regeneration, the question stays and waits for the next answer.
        retried_by = _who_retries(turns, position, question)
        if retried_by != "assistant":
            unreported = _take_back(stretches[-1], question if retried_by else None)

        if turn.rejected or retried_by:
            left_out = _left_out(group, turn.problem, [*unreported, turn])
            (rejected if turn.rejected else unusable).append(left_out)
            unreported = []
        if retried_by:
            continue

        # Without another answer the chat ends here, and its remaining turns are reported once.
        first_remaining = position + 1 if turn.rejected else position
        remaining = [*unreported, *turns[first_remaining:]]
        if len(stretches) == 1 and remaining:
            reason = f"{turn.problem}, and the rest of the conversation builds on it"
            unusable.append(_left_out(group, reason, remaining))
        stretches.append([])
    return stretches, rejected, unusable


def _who_retries(turns: Sequence[Turn], position: int, question: Turn | None) -> str:
    """Return the role whose next turn leads to another answer to the question, "" if none does."""
    if turns[position].role != "assistant" or position + 1 == len(turns):
        return ""

    following = turns[position + 1]
    if following.role == "user" and question is not None and not question.problem:
        is_same_question = following.text.strip() == question.text.strip()
        return "user" if is_same_question else ""
    return "assistant" if following.role == "assistant" else ""


def _take_back(stretch: list[Turn], question: Turn | None) -> list[Turn]:
    """Remove and return the end of a stretch: from the question on, or all after the last answer.

    Tool calls aren't answers: the calls before an answer go with it.
    """
    start = len(stretch)
    if question is not None:
        while start and stretch[start - 1] is not question:
            start -= 1
        start = max(0, start - 1)
    else:
        while start and not _is_answer(stretch[start - 1]):
            start -= 1

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


def _derive_chat(
    stretch: Sequence[Turn], shared: Mapping[str, Any], row: Mapping[str, Any]
) -> list[Sample]:
    """Return the stretch up to its last answer as a chat; none without an answer to learn from."""
    turns = joined(stretch)
    while turns and turns[-1].role != "assistant":
        turns.pop()
    if not turns:
        return []

    # If no answer is to be learned, the stretch can only be the context of pairs.
    if all(turn.context_only for turn in turns if turn.role == "assistant"):
        return []
    messages = list(map(chat_message, turns))
    tools = {TOOLS_COLUMN: row[TOOLS_COLUMN]} if row.get(TOOLS_COLUMN) else {}
    chat = parse_sample({"messages": messages, **tools, **shared}, SampleKind.LLM)

    # What the application logged with the conversation stays with it.
    metadata = {}
    for column, value in row.items():
        if column not in _USED_COLUMNS and value is not None:
            metadata[str(column)] = value
    return [replace(chat, metadata=metadata)]


def _derive_pairs(
    stretches: Sequence[Sequence[Turn]], shared: Mapping[str, Any]
) -> tuple[list[Sample], list[LeftOut]]:
    """Return the pairs of question and answer, and the questions too short to stand alone."""
    pairs, short_questions = [], []
    first_question = next((turn for turn in stretches[0] if turn.role == "user"), None)

    for question, answer in chain.from_iterable(map(_answered_questions, stretches)):
        row = {"anchor": question.text, "positive": answer.text, **shared}
        least_words = 1 if question is first_question else LEAST_WORDS

        # A question can be megabytes of pasted text: counting stops at the least number of words.
        words = len(list(islice(_WORD.finditer(question.text), least_words)))
        if words == least_words:
            pairs.append(parse_sample(row, SampleKind.EMBEDDING))
            continue
        reason = f"a later question must have {LEAST_WORDS} words to stand alone, got {words}"
        short_questions.append(LeftOut(kind=SampleKind.EMBEDDING, row=row, reason=reason))
    return pairs, short_questions


def _answered_questions(stretch: Sequence[Turn]) -> Iterator[tuple[Turn, Turn]]:
    """Yield each user's turn with the first answer to it that calls no tool."""
    question = None
    for turn in joined(stretch):
        if turn.role == "user":
            question = turn
        elif question is not None and _is_answer(turn):
            if not turn.context_only:
                yield question, turn
            question = None
