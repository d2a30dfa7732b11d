"""Renders conversations: what a model learns stands after the very prompt that it is served.

A conversation becomes one text. Each answer that is learnt begins where the template's generation
prompt for it ends; an answer whose prompt the template changes later is context only.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunetrail.config.language_model import EMPTY, KEEP
from tunetrail.errors import SampleError
from tunetrail.learning.tokens.bounded_rendering import render_template
from tunetrail.learning.tokens.markers import Message, markers_of
from tunetrail.learning.tokens.rendered_tokens import Span, encode_rendered
from tunetrail.learning.tokens.templates import PLAIN_TEMPLATE, TEMPLATE_ERRORS
from tunetrail.samples.messages import THOUGHTS_BEGIN, THOUGHTS_END

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_EMPTY_THOUGHTS = f"{THOUGHTS_BEGIN}\n\n{THOUGHTS_END}\n\n"
_EMPTY_AT_START = re.compile(rf"\s*{THOUGHTS_BEGIN}\s*{THOUGHTS_END}\s*")
_THOUGHTS_AT_START = re.compile(rf"\s*{THOUGHTS_BEGIN}.*?{THOUGHTS_END}\s*", re.DOTALL)
# Characters of a text that have to be found again; templates may trim what is before them.
_TAIL = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderedChat:
    """A conversation as the model reads it.

    Attributes:
        text: The text, with `FILLER` within the markers that people wrote.
        spans: Begin and end of each answer that is learnt, in characters, with the end of its turn.
        turns: The index of the message of each span.
        context_answers: Number of answers that aren't learnt, since the template writes them or
            their prompts in another way once the conversation goes on.
    """

    text: str
    spans: list[Span]
    turns: list[int]
    context_answers: int = 0


def template_messages(messages: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Return stored messages as chat templates take them: calls as objects, no weights."""
    plain = []
    for message in messages:
        if message.keys() <= {"role", "content"}:
            plain.append(dict(message))
            continue
        named = {key: value for key, value in message.items() if key != "weight" and value}
        named["content"] = message["content"]
        if "tool_calls" in named:
            named["tool_calls"] = json.loads(named["tool_calls"])
        plain.append(named)
    return plain


def served_prompt(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]], tools: str | None
) -> str:
    """Return the text after which a model writes the next answer, with `FILLER` as in training."""
    return _Rendering(tokenizer, messages, tools, KEEP).prompt(len(messages))


def render_chat(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    tools: str | None = None,
    thoughts: str = KEEP,
) -> RenderedChat:
    """Return a conversation's text and the spans of the answers that are learnt.

    Args:
        tokenizer: The tokenizer with its chat template.
        messages: Stored messages; answers of weight 0 are context.
        tools: Stored tools.
        thoughts: What becomes of the thoughts in answers: see `LanguageModelConfig.thoughts`.

    Raises:
        SampleError: The template refuses the conversation, or drops text of it.
    """
    rendering = _Rendering(tokenizer, messages, tools, thoughts)
    learnt = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and message.get("weight") != 0:
            learnt.append(index)
    if not learnt:
        raise SampleError("messages must have an answer to learn, got none.")

    last = learnt[-1]
    start, answer = rendering.answer(last)
    text = start + answer
    # Turns after the last answer belong to the text, too. Some templates change earlier turns once
    # another one follows: then the text ends with the answer.
    whole = rendering.text(len(messages))
    if whole.startswith(text):
        text = whole
    rendering.check_context(text, last)

    spans, turns = [], []
    for index in learnt:
        prompt, own_answer = (start, answer) if index == last else rendering.answer(index)
        # Some templates write empty thoughts into the last answer only.
        bare = _EMPTY_AT_START.sub("", own_answer, count=1) if thoughts == KEEP else own_answer
        for form in dict.fromkeys((own_answer, bare)):
            if text.startswith(prompt + form):
                spans.append((len(prompt), len(prompt + form)))
                turns.append(index)
                break
    return RenderedChat(
        text=text, spans=spans, turns=turns, context_answers=len(learnt) - len(turns)
    )


class _Rendering:
    """Renders the beginnings of one conversation."""

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        messages: Sequence[Mapping[str, Any]],
        tools: str | None,
        thoughts: str,
    ) -> None:
        self._tokenizer = tokenizer
        self._thoughts = thoughts
        self._messages = template_messages(messages)
        if thoughts != KEEP:
            for message in self._messages:
                if message["role"] == "assistant":
                    message["content"] = _without_thoughts(message["content"])

        markers = markers_of(tokenizer)
        self._messages = [markers.shielded(message) for message in self._messages]
        self._tools = None if tools is None else json.loads(markers.shielded_json(tools))
        self._texts: dict[tuple[int, bool], str] = {}

    def text(self, count: int, *, prompt: bool = False) -> str:
        """Return the first messages as text, with the generation prompt if asked for."""
        key = (count, prompt)
        if key not in self._texts:
            self._texts[key] = self._rendered(count, prompt)
        return self._texts[key]

    def _rendered(self, count: int, prompt: bool) -> str:
        """Return what the chat template makes of the first messages."""
        template = self._tokenizer.chat_template or PLAIN_TEMPLATE
        try:
            return render_template(
                self._tokenizer,
                self._messages[:count],
                tools=self._tools,
                chat_template=template if isinstance(template, str) else None,
                add_generation_prompt=prompt,
            )
        except TEMPLATE_ERRORS as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise SampleError(
                f"messages must have a form in the model's chat template, which says: {reason}."
            ) from error

    def prompt(self, index: int) -> str:
        """Return the prompt that is served for the message at an index."""
        return self.text(index, prompt=True) if index else ""

    def answer(self, index: int) -> tuple[str, str]:
        """Return the prompt for an assistant's message, and what is learnt after it."""
        message = self._messages[index]
        content = message["content"].strip()
        so_far = self.text(index + 1)
        spoken = _without_thoughts(content).strip()
        end = self._end_of(so_far, spoken)
        if spoken[-_TAIL:] not in so_far or not self._has_calls(so_far, message):
            raise SampleError(
                f"messages[{index}] (assistant) is changed or dropped by the model's chat "
                "template, so it can't be learned. Use another model, or a template that keeps it."
            )
        if not index:
            # Many templates can't render a prompt without a turn.
            start = max(so_far.find(content), 0)
            return so_far[:start], so_far[start:end]

        prompt = self.prompt(index)
        common = _common_prefix_length(prompt, so_far)
        is_continued = common == len(prompt)
        natural = so_far[common:end]
        # A turn with calls only has no content to build on.
        closing = so_far[so_far.rfind(spoken) + len(spoken) : end] if spoken else natural
        return prompt, self._continuation(prompt, content, natural, closing, is_continued)

    def _continuation(
        self, prompt: str, content: str, natural: str, closing: str, is_continued: bool
    ) -> str:
        """Return what follows the prompt.

        Args:
            prompt: The prompt that is served.
            content: The answer, with its thoughts if they are kept.
            natural: What the template writes after the beginning that it shares with the prompt.
            closing: What the template writes after the answer's text.
            is_continued: Whether the template's text of the answer begins with the whole prompt.
        """
        thoughts = _THOUGHTS_AT_START.match(content)
        is_open = prompt.rstrip().endswith(THOUGHTS_BEGIN)
        has_empty = _EMPTY_AT_START.match(natural)
        if thoughts:
            if is_continued and thoughts[0].strip() in natural:
                return natural
            # The prompt has written the opening tag, and perhaps its line break.
            if is_open:
                content = content.removeprefix(THOUGHTS_BEGIN)
                content = content.lstrip("\n") if prompt.endswith("\n") else content
            return content + closing

        if is_open:
            if is_continued and THOUGHTS_END in natural:
                return natural
            # Unclosed, the answer would be read as thoughts.
            remainder = _EMPTY_AT_START.sub("", natural, count=1).lstrip("\n")
            return f"\n{THOUGHTS_END}\n\n{remainder}"

        body = natural if is_continued else content + closing
        if self._thoughts == KEEP:
            return body
        if has_empty and is_continued:
            body = body[has_empty.end() :]
        is_closed = prompt.rstrip().endswith(THOUGHTS_END)
        if self._thoughts == EMPTY and not is_closed:
            return _EMPTY_THOUGHTS + body
        return body

    def _end_of(self, text: str, spoken: str) -> int:
        """Return where the last turn of a text ends: after its end token."""
        start = max(text.rfind(spoken), 0) + len(spoken) if spoken else 0
        eos = self._tokenizer.eos_token
        end_token = text.rfind(eos, start) if eos else -1
        # What a template writes after it, such as a line break, is never generated.
        return len(text.rstrip("\n")) if end_token < 0 else end_token + len(eos)

    def _has_calls(self, text: str, message: Message) -> bool:
        calls = message.get("tool_calls", ())
        return all(call["function"]["name"] in text for call in calls)

    def check_context(self, text: str, last: int) -> None:
        """Raise `SampleError` if the text lacks a turn before the last answer, or a tool."""
        for index, message in enumerate(self._messages[:last]):
            # Templates may well leave out the thoughts of earlier answers, and what they said.
            is_answer = message["role"] == "assistant"
            tail = "" if is_answer else message["content"].strip()[-_TAIL:]
            if tail not in text or not self._has_calls(text, message):
                raise SampleError(
                    f"messages[{index}] ({message['role']}) is dropped by the model's chat "
                    "template, so the answer to it can't be learned. Use another model."
                )

        for tool in self._tools or ():
            name = tool["function"]["name"]
            if name not in text:
                raise SampleError(
                    f"tools must be written by the model's chat template, which leaves out {name}. "
                    "Use a model whose template has tools."
                )


def _without_thoughts(content: str) -> str:
    return _THOUGHTS_AT_START.sub("", content, count=1)


def _common_prefix_length(first: str, second: str) -> int:
    if second.startswith(first):
        return len(first)
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


def answer_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Return the id of the token that ends an answer in the chat template, None for a word."""
    exchange = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered = render_chat(tokenizer, exchange)
    ids, offsets = encode_rendered(tokenizer, rendered.text)
    end = rendered.spans[-1][1]
    # Many templates end a turn with a token of their own instead of the end of the sequence.
    markers = markers_of(tokenizer).ids
    ends = [token for token, span in zip(ids, offsets, strict=True) if span[1] == end]
    return next((token for token in ends if token in markers), None)
