"""Find preferences and single verdicts in logged conversations.

A rejected answer and an accepted one to the same question, in one conversation or in two of the
same ingestion, are a preference. Only verdicts that were given count: an answer without one is
neither accepted nor rejected here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunetrail.data.conversations.messages import Turn
from tunetrail.data.twins.shingles import normalized
from tunetrail.samples import Sample, SampleKind, parse_sample

_MOST_QUESTIONS = 200_000
"""Questions whose judged answers are remembered; the oldest are forgotten first."""

_MOST_MESSAGES = 40
"""Messages before a question; answers to later questions of a conversation aren't compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedTurn:
    """An answer with a verdict, and the turns that it answers.

    Attributes:
        prompt: The messages before the answer; the last one is the question.
        answer: The answer.
        accepted: Whether it was accepted.
    """

    prompt: tuple[Mapping[str, str], ...]
    answer: str
    accepted: bool

    @property
    def question_key(self) -> bytes:
        """A digest that is equal for the same question, once normalised, after the same turns."""
        *context, question = self.prompt
        content = [*map(dict, context), normalized(question["content"])]
        return hashlib.sha256(json.dumps(content).encode()).digest()[:16]

    @property
    def prompt_columns(self) -> dict[str, Any]:
        """The prompt in the columns of a sample: one text, or several messages."""
        if len(self.prompt) == 1:
            return {"prompt": self.prompt[0]["content"]}
        return {"prompt_messages": list(map(dict, self.prompt))}


def judged_turns(turns: Sequence[Turn]) -> Iterator[JudgedTurn]:
    """Yield the answers with a verdict, each with the turns that it answers.

    It ends at a question that builds on a rejected answer, and at turns that aren't plain text.
    """
    context: list[dict[str, str]] = []
    question: dict[str, str] | None = None
    answer: dict[str, str] | None = None
    for turn in turns:
        message = {"role": turn.role, "content": turn.text}
        if turn.role == "tool" or turn.calls or (turn.problem and not turn.rejected):
            return
        if turn.role == "system":
            context.append(message)
        elif turn.role == "user":
            is_retry = question is not None and normalized(question["content"]) == normalized(
                turn.text
            )
            if question is not None and not is_retry:
                if answer is None:
                    return
                context += [question, answer]
                # Each judged answer holds all of its prompt: a log of any length stays linear.
                if len(context) > _MOST_MESSAGES:
                    return
            question, answer = message, None
        elif question is not None:
            if turn.accepted is not None and turn.text.strip():
                prompt = (*context, question)
                yield JudgedTurn(prompt=prompt, answer=turn.text, accepted=turn.accepted)
            if not turn.rejected:
                answer = message


@dataclass(kw_only=True)
class PreferenceFinder:
    """Pairs each rejected answer with an accepted one to the same question, over many rows.

    A rejected answer waits for the next accepted one, unless there was one before.
    """

    _accepted: dict[bytes, str] = field(default_factory=dict)
    _waiting: dict[bytes, list[str]] = field(default_factory=dict)

    def samples(self, judged: Sequence[JudgedTurn], shared: Mapping[str, Any]) -> list[Sample]:
        """Return the preferences that these answers complete, then the verdicts on them.

        Args:
            judged: The answers of one conversation.
            shared: Group, time and weight of the conversation.
        """
        preferences: list[Sample] = []
        for turn in judged:
            for chosen, rejected in self._pairs(turn):
                row = {**turn.prompt_columns, "chosen": chosen, "rejected": rejected, **shared}
                preferences.append(parse_sample(row, SampleKind.LLM))

        # A verdict has a prompt of one text: later turns would lack what was said before.
        verdicts: list[Sample] = []
        for turn in judged:
            if len(turn.prompt) == 1:
                answer = {"completion": turn.answer, "accepted": turn.accepted}
                row = {**turn.prompt_columns, **answer, **shared}
                verdicts.append(parse_sample(row, SampleKind.LLM))
        return [*preferences, *verdicts]

    def _pairs(self, turn: JudgedTurn) -> list[tuple[str, str]]:
        """Remember an answer, and return the pairs of chosen and rejected that it completes."""
        key = turn.question_key
        if turn.accepted:
            self._accepted[key] = turn.answer
            pairs = [(turn.answer, rejected) for rejected in self._waiting.pop(key, [])]
        elif key in self._accepted:
            pairs = [(self._accepted[key], turn.answer)]
        else:
            self._waiting.setdefault(key, []).append(turn.answer)
            pairs = []

        for remembered in (self._accepted, self._waiting):
            if len(remembered) > _MOST_QUESTIONS:
                del remembered[next(iter(remembered))]  # type: ignore[attr-defined]
        # The same answer, accepted by one and rejected by another, prefers nothing.
        return [pair for pair in pairs if normalized(pair[0]) != normalized(pair[1])]
