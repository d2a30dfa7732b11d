"""The conventions of data for language models: instructions, chats, and preferences."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tunetrail.data.conventions.convention import Convention, Row, list_of, register, text_of
from tunetrail.data.conventions.verdicts import VERDICT_COLUMNS, checked_verdict
from tunetrail.data.conversations.feedback import FEEDBACK_COLUMNS, SCORE_COLUMNS
from tunetrail.data.conversations.messages import MESSAGE_COLUMNS, messages_of
from tunetrail.errors import SampleError
from tunetrail.samples import SampleKind
from tunetrail.samples.messages import checked_turns, preference_columns
from tunetrail.samples.values import checked_text, shortened

Message = dict[str, Any]

SYSTEM_COLUMNS = ("system", "system_prompt")
"""Columns that hold the text of the system turn."""
# Columns that belong before the question.
_AROUND = (*SYSTEM_COLUMNS, "tools", "history")
_AROUND_SET = frozenset(_AROUND)
_FEEDBACK_SET = frozenset((*FEEDBACK_COLUMNS, *SCORE_COLUMNS))
_GOOD_ANSWER = "the answer is a good one"

# HH-RLHF writes a conversation as one text; the first turn may lack its blank line.
_SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def _answers(name: str, task: str, answer: str, context: str = "") -> Convention:
    """Return the convention of a task and its answer, with an optional context below the task."""

    def becomes(row: Row) -> list[Row]:
        checked_verdict(row, _GOOD_ANSWER)
        question = text_of(row, task)
        detail = checked_text(row[context], context) if context in row else ""
        if detail.strip():
            question = f"{question}\n\n{detail}"
        # Classes under a verdict's name are no verdicts: they are carried over, and named.
        return [_carried(row) | _answered(row, question, checked_text(row[answer], answer))]

    optional = (*filter(None, [context]), *_AROUND, *VERDICT_COLUMNS)
    return Convention(
        name=name,
        kind=SampleKind.LLM,
        columns=(task, answer),
        optional=optional,
        becomes=becomes,
    )


def _completion(row: Row) -> list[Row]:
    """Return a completion in our own columns, with what belongs before its question."""
    checked_verdict(row, _GOOD_ANSWER)
    if not any(_is_filled(row.get(column)) for column in _AROUND):
        return [row]
    answered = _answered(row, checked_text(row["input"], "input"), row["output"])
    return [_carried(row) | answered]


def _carried(row: Row) -> dict[str, Any]:
    return {column: row[column] for column in VERDICT_COLUMNS if column in row}


def _answered(row: Row, question: str, answer: str) -> dict[str, Any]:
    """Return question and answer as a completion, or as a chat if something stands before them."""
    if _AROUND_SET.isdisjoint(row):
        return {"input": question, "output": answer}

    before = [*_system_turn(row), *_history(row)]
    tools = _tools(row)
    if not before and not tools:
        return {"input": question, "output": answer}

    exchange = [_message("user", question), _message("assistant", answer)]
    return {"messages": [*before, *exchange], **tools}


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _is_filled(value: Any) -> bool:
    """Tell whether a column says something: many data sets have empty ones in every row."""
    return value is not None and str(value).strip() not in ("", "[]", "{}")


def _system_turn(row: Row) -> list[Message]:
    columns = [column for column in SYSTEM_COLUMNS if _is_filled(row.get(column))]
    return [_message("system", checked_text(row[column], column)) for column in columns]


def _after_system(row: Row, messages: list[Message]) -> list[Message]:
    """Return messages after the row's system turn; two system turns become one."""
    turns = [*_system_turn(row), *messages]
    while len(turns) > 1 and turns[0]["role"] == turns[1]["role"] == "system":
        joined = f"{turns[0]['content']}\n\n{turns[1]['content']}"
        turns[:2] = [_message("system", joined)]
    return turns


def _tools(row: Row) -> dict[str, Any]:
    """Return the column `tools`, if there are any, for the chat template."""
    return {"tools": row["tools"]} if _is_filled(row.get("tools")) else {}


def _history(row: Row) -> list[Message]:
    """Return the earlier exchanges of LLaMA-Factory's Alpaca: a list of [question, answer]."""
    if not _is_filled(row.get("history")):
        return []

    exchanges = list_of(row["history"])
    if not exchanges:
        raise _no_history(row["history"])

    messages = []
    for exchange in exchanges:
        texts = list_of(exchange)
        if texts is None or len(texts) != 2:
            raise _no_history(exchange)
        question, answer = (checked_text(text, "history") for text in texts)
        messages += [_message("user", question), _message("assistant", answer)]
    return messages


def _no_history(value: Any) -> SampleError:
    """Return the error for a column `history`, or an exchange in it, of another form."""
    return SampleError(f"history must be a list of [question, answer], got {shortened(value)}.")


def _chat(column: str, name: str) -> Convention:
    """Return the convention of a conversation, with a system turn or tools next to it."""

    def becomes(row: Row) -> list[Row]:
        checked_verdict(row, _GOOD_ANSWER)
        # Such a row needs no change: a sample's messages may be in any notation.
        is_own_form = column == "messages" and isinstance(row[column], list)
        if is_own_form and _AROUND_SET.isdisjoint(row):
            _check_feedback(row[column])
            return [row]

        messages = _after_system(row, _messages(row[column], column))
        return [{**_carried(row), "messages": messages, **_tools(row)}]

    optional = (*SYSTEM_COLUMNS, "tools", *VERDICT_COLUMNS)
    return Convention(
        name=name, kind=SampleKind.LLM, columns=(column,), optional=optional, becomes=becomes
    )


def _messages(value: Any, column: str) -> list[Message]:
    """Return a conversation in any notation as messages in the notation of samples.

    Raises:
        SampleError: A message is malformed, or feedback on one rejects it.
    """
    messages = messages_of({"messages": value})
    _check_feedback(messages)
    return checked_turns(messages, column)


def _check_feedback(messages: list[Any]) -> None:
    """Raise `SampleError` if feedback on one of the messages rejects it."""
    for message in messages:
        is_turn = type(message) is dict or isinstance(message, Mapping)
        if is_turn and not _FEEDBACK_SET.isdisjoint(message):
            checked_verdict(message, _GOOD_ANSWER)


def _message_list(value: Any) -> list[Any] | None:
    """Return a list of messages, or JSON text of one, as a list; None for any other text."""
    messages = list_of(value)
    is_text = isinstance(value, str)
    # A text may be JSON in its own right, such as the list of numbers that a question asks for.
    if is_text and not all(isinstance(message, Mapping) for message in messages or ()):
        return None
    return messages or (None if is_text else messages)


def _prompt_completion(row: Row) -> list[Row]:
    """Return TRL's prompt and completion: two texts, or two lists of messages."""
    checked_verdict(row, _GOOD_ANSWER)
    if _message_list(row["prompt"]) is None and _message_list(row["completion"]) is None:
        prompt, completion = text_of(row, "prompt"), checked_text(row["completion"], "completion")
        return [_carried(row) | _answered(row, prompt, completion)]

    # Only the completion is learnt: earlier answers are read.
    context = _turns(row["prompt"], "prompt", "user")
    for turn in context:
        if turn["role"] == "assistant":
            turn["weight"] = 0
    messages = [*context, *_turns(row["completion"], "completion", "assistant")]
    return [{**_carried(row), "messages": _after_system(row, messages), **_tools(row)}]


def _turns(value: Any, column: str, role: str) -> list[Message]:
    """Return a list of messages, or a text as the only message of a role."""
    if _message_list(value) is not None:
        return _messages(value, column)
    return [_message(role, checked_text(value, column))]


def _judged(column: str) -> Convention:
    """Return the convention of KTO: an answer, and whether it was accepted."""

    def becomes(row: Row) -> list[Row]:
        verdict = {
            "completion": _only_text(row["completion"], "completion"),
            "accepted": row[column],
        }
        prompt = [*_history(row), *_turns(row["prompt"], "prompt", "user")]
        turns, tools = _after_system(row, prompt), _tools(row)
        is_text = len(turns) == 1 and turns[0].keys() == {"role", "content"}
        if is_text and turns[0]["role"] == "user" and not tools:
            return [{"prompt": turns[0]["content"], **verdict}]
        return [{"prompt_messages": turns, **verdict, **tools}]

    columns = ("prompt", "completion", column)
    return Convention(
        name="KTO", kind=SampleKind.LLM, columns=columns, optional=_AROUND, becomes=becomes
    )


def _only_text(value: Any, column: str) -> str:
    """Return a text, or the text of the only message of a list."""
    if _message_list(value) is None:
        return checked_text(value, column)
    messages = _messages(value, column)
    if len(messages) != 1 or messages[0].keys() != {"role", "content"}:
        raise SampleError(
            f"{column} must be one text or one message next to a verdict, got {len(messages)} "
            "messages. Leave the row out."
        )
    return str(messages[0]["content"])


def _preference(name: str, prompt: str = "") -> Convention:
    """Return the convention of two answers: texts, transcripts or lists of messages."""

    def becomes(row: Row) -> list[Row]:
        before = [*_system_turn(row), *_history(row)]
        if prompt:
            before += _turns(row[prompt], prompt, "user")
        chosen = _answer_turns(row, "chosen", before)
        rejected = _answer_turns(row, "rejected", before)

        answers = {"chosen": chosen, "rejected": rejected}
        result = preference_columns({"prompt": before, **answers, **_tools(row)})
        texts = {name: value for name, value in row.items() if isinstance(value, str)}
        # A row that already has the result's columns, with the same texts, stays as it is.
        is_own_form = "prompt" in result and texts.items() >= result.items()
        return [row if is_own_form else result]

    columns = (*filter(None, [prompt]), "chosen", "rejected")
    return Convention(
        name=name,
        kind=SampleKind.LLM,
        columns=columns,
        optional=_AROUND,
        becomes=becomes,
        own=("prompt", "chosen", "rejected") if prompt == "prompt" else (),
    )


def _answer_turns(row: Row, column: str, before: list[Message]) -> list[Message]:
    """Return the turns of one of two answers, without the prompt that it may repeat."""
    value = row[column]
    if _message_list(value) is not None:
        turns = _messages(value, column)
        repeated = turns[: len(before)] == before
        return turns[len(before) :] if repeated else turns

    text = checked_text(value, column)
    if before:
        return [_message("assistant", text)]
    return _transcript(text, column)


def _transcript(text: str, column: str) -> list[Message]:
    """Return the turns of a transcript, such as `\\n\\nHuman: Hi\\n\\nAssistant: Hello`."""
    speakers = list(_SPEAKER.finditer(text))
    if not speakers or text[: speakers[0].start()].strip():
        raise SampleError(
            f"{column} must be a list of messages or a transcript of Human and Assistant, as there "
            f"is no prompt, got {shortened(text)}. Add the column prompt."
        )

    ends = [speaker.start() for speaker in speakers[1:]] + [len(text)]
    return [
        _message(_SPEAKERS[speaker[1]], text[speaker.end() : end])
        for speaker, end in zip(speakers, ends, strict=True)
    ]


def _own(
    name: str, columns: tuple[str, ...], becomes: Callable[[Row], list[Row]], *needs: str
) -> Convention:
    optional = (*_AROUND, *VERDICT_COLUMNS)
    return Convention(
        name=name,
        kind=SampleKind.LLM,
        columns=columns,
        optional=optional,
        becomes=becomes,
        needs=needs,
        own=("input", "output"),
    )


register(
    _answers("Alpaca", "instruction", "output", "input"),
    _answers("Alpaca", "instruction", "response", "input"),
    _answers("Dolly", "instruction", "response", "context"),
    *(_judged(column) for column in ("label", "accepted", "kto_tag")),
    _own("prompt/completion", ("prompt", "completion"), _prompt_completion, "label"),
    _own("input/output after a system turn", ("input", "output"), _completion, "instruction"),
    _answers("prompt/response", "prompt", "response"),
    _answers("question/answer", "question", "answer", "context"),
    _answers("query/response", "query", "response"),
    _chat("messages", "OpenAI chats"),
    *(_chat(column, "ShareGPT") for column in MESSAGE_COLUMNS if column != "messages"),
    _preference("UltraFeedback", "prompt"),
    _preference("question, chosen, rejected", "question"),
    _preference("instruction, chosen, rejected", "instruction"),
    _preference("HH-RLHF"),
)
