"""Find preferences and single verdicts in logged conversations.

A rejected answer and an accepted one to the same question, in one conversation or in two of the
same session, are a preference: the verdicts of earlier ingestions are stored. Only verdicts that
were given count: an answer without one is neither accepted nor rejected here.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunetrail.data.conversations.messages import Turn
from tunetrail.data.twins.shingles import normalized
from tunetrail.samples import Sample, SampleKind, parse_sample

# Questions whose judged answers are remembered; the oldest are forgotten first.
_MOST_QUESTIONS = 200_000

# Messages before a question; answers to later questions of a conversation aren't compared.
_MOST_MESSAGES = 40

# Judged answers to one question of a conversation that are compared; later ones aren't.
_MOST_ANSWERS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedTurn:
    """An answer with a verdict, and the turns that it answers.

    Attributes:
        prompt: The messages before the answer; the last one is the question.
        question_key: A digest that is equal for the same question, once normalised, after the
            same turns.
        answer: The answer.
        accepted: Whether it was accepted.
    """

    prompt: tuple[Mapping[str, str], ...]
    question_key: bytes
    answer: str
    accepted: bool

    @property
    def key(self) -> bytes:
        """A digest that is equal for the same answer to the same question with the same verdict."""
        text = json.dumps([self.answer, self.accepted])
        return hashlib.sha256(self.question_key + text.encode()).digest()[:16]

    @property
    def prompt_columns(self) -> dict[str, Any]:
        """The prompt in the columns of a sample: one text, or several messages."""
        if len(self.prompt) == 1:
            return {"prompt": self.prompt[0]["content"]}
        return {"prompt_messages": list(map(dict, self.prompt))}


class _Prompt:
    """The turns before an answer and their digest, which grows with them: no turn is read twice.

    Attributes:
        question: The question, None before the first one.
        answer: The last answer to it that wasn't rejected.
        judged: How many answers to it have a verdict.
    """

    def __init__(self) -> None:
        self.question: dict[str, str] | None = None
        self.answer: dict[str, str] | None = None
        self.judged = 0
        self._context: list[dict[str, str]] = []
        self._context_hash = hashlib.sha256()
        self._normalized = ""
        self._key = b""

    def add(self, message: dict[str, str]) -> None:
        """Add a message that precedes the next question."""
        self._context.append(message)
        self._context_hash.update(json.dumps(message).encode() + b"\n")

    def ask(self, message: dict[str, str]) -> bool:
        """Take a user's message as the question; return whether its answers can be compared."""
        text = normalized(message["content"])
        is_retry = self.question is not None and text == self._normalized
        if self.question is not None and not is_retry:
            # The question builds on an answer that was rejected, or never given.
            if self.answer is None:
                return False
            self.add(self.question)
            self.add(self.answer)

        if not is_retry:
            self.judged = 0
            self._normalized = text
            digest = self._context_hash.copy()
            digest.update(text.encode("utf-8", "surrogatepass"))
            self._key = digest.digest()[:16]
        self.question, self.answer = message, None
        # Each judged answer holds all of its prompt: a log of any length stays linear.
        return len(self._context) <= _MOST_MESSAGES

    def judge(self, question: dict[str, str], answer: str, *, accepted: bool) -> JudgedTurn:
        """Return a verdict on an answer to the question."""
        self.judged += 1
        return JudgedTurn(
            prompt=(*self._context, question),
            question_key=self._key,
            answer=answer,
            accepted=accepted,
        )


def judged_turns(turns: Sequence[Turn]) -> Iterator[JudgedTurn]:
    """Yield the answers with a verdict, each with the turns that it answers.

    It ends at a question that builds on a rejected answer, and at turns that aren't plain text.
    """
    prompt = _Prompt()
    for turn in turns:
        if turn.role == "tool" or turn.calls or (turn.problem and not turn.rejected):
            return

        message = {"role": turn.role, "content": turn.text}
        if turn.role == "system":
            prompt.add(message)
        elif turn.role == "user":
            if not prompt.ask(message):
                return
        elif prompt.question is not None:
            is_judged = turn.accepted is not None and bool(turn.text.strip())
            if is_judged and prompt.judged < _MOST_ANSWERS:
                yield prompt.judge(prompt.question, turn.text, accepted=bool(turn.accepted))
            if not turn.rejected:
                prompt.answer = message


def _stored_turn(verdict: Mapping[str, Any]) -> JudgedTurn | None:
    """Return the judged answer of a stored verdict; None if it isn't one of a log."""
    question = {"role": "user", "content": verdict.get("prompt")}
    messages = verdict.get("prompt_messages") or [question]
    prompt = _Prompt()
    for message in messages:
        if message["role"] == "user":
            prompt.ask(message)
        elif message["role"] == "assistant":
            prompt.answer = {"role": "assistant", "content": message["content"]}
        else:
            prompt.add(message)
    if prompt.question is None or prompt.answer is not None:
        return None
    return prompt.judge(prompt.question, verdict["completion"], accepted=verdict["accepted"])


@dataclass(kw_only=True)
class PreferenceFinder:
    """Pairs each rejected answer with an accepted one to the same question, over many rows.

    A rejected answer waits for the next accepted one, unless there was one before.
    """

    _accepted: dict[bytes, str] = field(default_factory=dict)
    _waiting: dict[bytes, list[str]] = field(default_factory=dict)
    _earlier: "PreferenceFinder | None" = None
    _known: set[bytes] = field(default_factory=set)

    def remember(self, verdicts: Iterable[Mapping[str, Any]]) -> None:
        """Take the stored verdicts of a session, in their order, to compare new answers with them.

        An answer that is among them is not new. So ingesting a file twice finds the same
        preferences twice, whatever was ingested in between.
        """
        self._earlier = PreferenceFinder()
        for turn in filter(None, map(_stored_turn, verdicts)):
            self._earlier._pairs(turn)
            self._known.add(turn.key)

    def samples(self, judged: Sequence[JudgedTurn], shared: Mapping[str, Any]) -> list[Sample]:
        """Return the preferences that these answers complete, then the verdicts on them.

        Args:
            judged: The answers of one conversation.
            shared: Group, time and weight of the conversation.
        """
        preferences: list[Sample] = []
        for turn in judged:
            for chosen, rejected in self._all_pairs(turn):
                row = {**turn.prompt_columns, "chosen": chosen, "rejected": rejected, **shared}
                preferences.append(parse_sample(row, SampleKind.LLM))

        verdicts: list[Sample] = []
        for turn in judged:
            answer = {"completion": turn.answer, "accepted": turn.accepted}
            row = {**turn.prompt_columns, **answer, **shared}
            verdicts.append(parse_sample(row, SampleKind.LLM))
        return [*preferences, *verdicts]

    def _all_pairs(self, turn: JudgedTurn) -> list[tuple[str, str]]:
        """Return the pairs that an answer completes, also with answers of earlier ingestions."""
        pairs = self._pairs(turn)
        if self._earlier is not None and turn.key not in self._known:
            pairs += [pair for pair in self._earlier._pairs(turn) if pair not in pairs]
        return pairs

    def _pairs(self, turn: JudgedTurn) -> list[tuple[str, str]]:
        """Remember an answer, and return the pairs of chosen and rejected that it completes."""
        key = turn.question_key
        if turn.accepted:
            self._accepted[key] = turn.answer
            pairs = [(turn.answer, rejected) for rejected in self._waiting.pop(key, [])]
        elif key in self._accepted:
            pairs = [(self._accepted[key], turn.answer)]
        else:
            waiting, pairs = self._waiting.setdefault(key, []), []
            if len(waiting) < _MOST_ANSWERS:
                waiting.append(turn.answer)

        _forget_oldest(self._accepted)
        _forget_oldest(self._waiting)
        # The same answer, accepted by one and rejected by another, prefers nothing.
        return [pair for pair in pairs if normalized(pair[0]) != normalized(pair[1])]


def _forget_oldest(remembered: dict[bytes, Any]) -> None:
    """Remove the oldest question if there are too many."""
    if len(remembered) > _MOST_QUESTIONS:
        del remembered[next(iter(remembered))]
