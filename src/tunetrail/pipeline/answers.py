"""Answers: what a language model writes to test rows, as scores and as a table for people."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from tunetrail.config import EvaluationConfig, GenerationConfig
from tunetrail.config.answer_checks import read_json_schema, read_pattern
from tunetrail.data.rows import shown
from tunetrail.evaluation.answers import WRITTEN, AnswerChecks, with_answers
from tunetrail.evaluation.further_metrics import metrics_of_answers
from tunetrail.evaluation.scores import Scores
from tunetrail.learning.tokens.chat import last_answer
from tunetrail.pipeline.scoring import choose_by_content

if TYPE_CHECKING:
    from tunetrail.learning.language_model.learner import LanguageModelLearner
    from tunetrail.learning.language_model.model import LanguageModel

Record = Mapping[str, Any]

TABLE = "answers.json"
"""The artifact with the answers before and after."""


def add_answers(
    learner: "LanguageModelLearner",
    model: "LanguageModel",
    records: Sequence[Record],
    scores: Scores,
    config: EvaluationConfig,
) -> Scores:
    """Return the scores of a language model with what it writes to some of the records.

    The records are drawn by their content, so that every model is asked the same.
    """
    conversations = list(map(last_answer, records))
    prompted = [row for row, conversation in enumerate(conversations) if conversation is not None]
    chosen = choose_by_content([conversations[row] for row in prompted], config.generation.rows)
    rows = [prompted[position] for position in chosen]
    written = learner.write_answers(
        model,
        [records[row] for row in rows],
        max_new_tokens=config.generation.max_new_tokens,
        batch_size=config.batch_size,
    )

    answers: list[str | None] = [None] * len(records)
    expected: list[str | None] = [None] * len(records)
    for row, answer in zip(rows, written, strict=True):
        answers[row], expected[row] = answer, prompt_and_answer(records[row])[1]
    checks = replace(_checks(config.generation), further=metrics_of_answers(config))
    return with_answers(scores, answers, expected, checks)


def answer_table(
    records: Sequence[Record], before: Scores, after: Scores, mask: Callable[[str], str] = str
) -> pd.DataFrame:
    """Return a line for each answer: prompt, expected answer, and what both models wrote.

    Args:
        records: The test rows.
        before: Scores of the version to beat, with its answers.
        after: Scores of the candidate, with its answers.
        mask: Replaces personal data in a text. Very long texts are cut off as well.
    """
    lines = []
    for row, record in enumerate(records):
        if after.per_example[WRITTEN][row] is None:
            continue

        prompt, expected = prompt_and_answer(record, mask)
        line = {
            "row_id": record.get("row_id"),
            "prompt": shown(prompt),
            "expected": shown(expected),
            "before": shown(before.per_example[WRITTEN][row], mask),
            "after": shown(after.per_example[WRITTEN][row], mask),
        }

        for moment, scores in (("before", before), ("after", after)):
            line[f"exact_match_{moment}"] = bool(scores.per_example["exact_match"][row])
            line[f"chrf_{moment}"] = round(float(scores.per_example["chrf"][row]), 4)
        lines.append(line)

    return pd.DataFrame(lines)


def prompt_and_answer(record: Record, mask: Callable[[str], str] = str) -> tuple[str, str]:
    """Return the prompt and the last answer of a record as text, each turn masked by itself."""
    conversation = last_answer(record)
    if conversation is None:
        raise ValueError("record must have an answer to a prompt, got none.")

    messages, answer = conversation
    if len(messages) == 1:
        return mask(messages[0]["content"]), mask(answer)
    turns = [f"{message['role']}: {mask(message['content'])}" for message in messages]
    return "\n".join(turns), mask(answer)


def _checks(config: GenerationConfig) -> AnswerChecks:
    return AnswerChecks(
        pattern=None if config.pattern is None else read_pattern(config.pattern),
        schema=None if config.json_schema is None else read_json_schema(config.json_schema),
    )
