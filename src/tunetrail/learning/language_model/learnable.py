"""Finds the rows that teach a language model nothing."""

import logging
from collections.abc import Sequence

from tunetrail.errors import SampleError
from tunetrail.learning.language_model.record_tokenizer import AnswerPair, RecordTokenizer
from tunetrail.learning.tokens.chat import TokenizedExample, is_preference
from tunetrail.learning.training.records import Record
from tunetrail.reporting.readable import counted

_logger = logging.getLogger(__name__)


def is_supervised(example: TokenizedExample) -> bool:
    """Tell whether an example has a token to learn."""
    return example.supervised_tokens > 0


def supervised_examples(
    examples: Sequence[TokenizedExample],
) -> tuple[list[int], list[TokenizedExample]]:
    """Return the indices of the examples that have a supervised token, and these examples."""
    rows, supervised = [], []
    for row, example in enumerate(examples):
        if is_supervised(example):
            rows.append(row)
            supervised.append(example)
    return rows, supervised


def teaches(pair: AnswerPair) -> bool:
    """Tell whether both answers are there, as far as the maximum length goes, and differ."""
    chosen, rejected = pair
    has_answers = is_supervised(chosen) and is_supervised(rejected)
    return has_answers and chosen.input_ids != rejected.input_ids


def check_learnable(tokenizer: RecordTokenizer, records: Sequence[Record]) -> None:
    """Raise `SampleError` if more than half of the rows teach nothing; name fewer of them."""
    if any(map(is_preference, records)):
        pairs = tokenizer.pairs(records)
        is_learnt = list(map(teaches, pairs))
        has_form = [bool(chosen.input_ids and rejected.input_ids) for chosen, rejected in pairs]
        target = "the difference between the answers"
    else:
        examples = tokenizer.examples(records)
        is_learnt = list(map(is_supervised, examples))
        has_form = [bool(example.input_ids) for example in examples]
        target = "the whole output"
        _name_context_answers(examples)

    unlearnable = has_form.count(False)
    if unlearnable:
        reason = _why_unlearnable(tokenizer, records[has_form.index(False)])
        summary = f"{unlearnable} of {len(records)} rows can't be learnt: {reason}"
        if unlearnable * 2 > len(records):
            raise SampleError(summary)
        _logger.warning(summary)

    cut = is_learnt.count(False) - unlearnable
    if cut * 2 > len(records):
        raise SampleError(
            f"llm.max_length={tokenizer.max_length} cuts off {target} of {cut} of "
            f"{len(records)} rows. Raise it."
        )


def _name_context_answers(examples: Sequence[TokenizedExample]) -> None:
    """Warn of answers that nothing is learnt from, although their rows are learnt."""
    context_answers = sum(example.context_answers for example in examples)
    if context_answers:
        _logger.warning(
            "context only: %s before the last one of a chat, which the chat template writes in "
            "another way once the chat goes on. To learn it as well, add the chat up to it as a "
            "row of its own.",
            counted(context_answers, "answer"),
        )


def _why_unlearnable(tokenizer: RecordTokenizer, record: Record) -> str:
    """Return why the chat template has no form for a record."""
    try:
        tokenizer.check_form(record)
    except SampleError as error:
        return str(error)
    return "the row has no text."
