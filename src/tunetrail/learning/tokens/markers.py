"""Control tokens of a tokenizer: text that people wrote never becomes one.

`FILLER` within a marker keeps the tokenizer from recognising it, and is left out of the tokens.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from tunetrail.errors import SampleError
from tunetrail.samples.messages import THOUGHTS_BEGIN, THOUGHTS_END, map_json_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, Any]

# An answer may hold these as tokens, if the tokenizer has them: it is the model that writes them.
_ANSWER_TAGS = (THOUGHTS_BEGIN, THOUGHTS_END, "<tool_call>", "</tool_call>")
FILLER = "\ufdd0"
"""A code point that is no character. Within a marker, it keeps a tokenizer from recognising it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Markers:
    """The control tokens of a tokenizer, as text.

    Attributes:
        ids: Their ids.
        anywhere: Finds all of them.
        in_answers: Finds those that no answer may hold as tokens.
    """

    ids: frozenset[int]
    anywhere: re.Pattern[str] | None
    in_answers: re.Pattern[str] | None

    def shielded(self, message: Message) -> Message:
        """Return a message in whose texts a tokenizer recognises no marker."""
        is_answer = message["role"] == "assistant"
        pattern = self.in_answers if is_answer else self.anywhere
        content = _broken_up(message["content"], pattern)
        if content is message["content"] and len(message) == 2:
            return message

        shielded = {**message, "content": content}
        for key in ("name", "tool_call_id"):
            if key in message:
                shielded[key] = _broken_up(message[key], self.anywhere)
        if "tool_calls" in message:
            shielded["tool_calls"] = json.loads(
                self.shielded_json(json.dumps(message["tool_calls"]))
            )
        return shielded

    def shielded_json(self, text: str) -> str:
        """Return JSON in whose texts a tokenizer recognises no marker."""
        return map_json_texts(text, lambda value: _broken_up(value, self.anywhere))

    def shielded_text(self, text: str) -> str:
        """Return a document in which a tokenizer recognises no marker."""
        return _broken_up(text, self.anywhere)


# By tokenizer, with what the markers depend on: reading them from a tokenizer takes milliseconds.
_known_markers: "WeakKeyDictionary[Any, tuple[Any, Markers]]" = WeakKeyDictionary()


def markers_of(tokenizer: "PreTrainedTokenizerBase") -> Markers:
    """Return the control tokens of a tokenizer: special ones, and those that its template writes.

    Many tokenizers don't flag the markers of turns as special. Tokens of white space are no
    markers, and some code models have many of them.
    """
    template = tokenizer.chat_template
    state = (template if isinstance(template, str) else repr(template), len(tokenizer))
    known = _known_markers.get(tokenizer)
    if known is None or known[0] != state:
        known = (state, _read_markers(tokenizer, state[0]))
        _known_markers[tokenizer] = known
    return known[1]


def _read_markers(tokenizer: "PreTrainedTokenizerBase", template: str) -> Markers:
    ids, texts = [], []
    for token_id, token in tokenizer.added_tokens_decoder.items():
        text = token.content
        if text.strip() and (token.special or (len(text) > 1 and text in (template or ""))):
            ids.append(token_id)
            texts.append(text)
    in_answers = [text for text in texts if text not in _ANSWER_TAGS]
    return Markers(ids=frozenset(ids), anywhere=_any_of(texts), in_answers=_any_of(in_answers))


def _any_of(texts: Sequence[str]) -> re.Pattern[str] | None:
    # The longest first: a marker may begin with a shorter one.
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if texts else None


def _broken_up(text: str, pattern: re.Pattern[str] | None) -> str:
    """Return a text with `FILLER` within each marker."""
    if pattern is None or pattern.search(text) is None:
        return text
    if FILLER in text:
        raise SampleError("texts must hold characters only, got the code point U+FDD0.")

    # Breaking a marker up can't complete another one, but two may overlap.
    while (match := pattern.search(text)) is not None:
        inside = match.start() + 1
        text = text[:inside] + FILLER + text[inside:]
    return text
