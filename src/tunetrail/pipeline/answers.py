"""Answers: what a language model writes to test rows, as scores and as a table for people."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tunetrail.config import EvaluationConfig, GenerationConfig
from tunetrail.config.answer_checks import read_json_schema, read_pattern
from tunetrail.evaluation.answers import WRITTEN, AnswerChecks, with_answers
from tunetrail.evaluation.scores import Scores
from tunetrail.fingerprints import value_fingerprint
from tunetrail.learning.language_model.learner import LanguageModel, LanguageModelLearner
from tunetrail.learning.tokens.chat import last_answer

Record = Mapping[str, Any]

TABLE = "answers.json"
"""The artifact with the answers before and after."""


def add_answers(
    learner: LanguageModelLearner,
    model: LanguageModel,
    records: Sequence[Record],
    scores: Scores,
    config: EvaluationConfig,
) -> Scores:
    """Return the scores of a language model with what it writes to some of the records.

    The records are drawn by their content, so that every model is asked the same.
    """
    rows = _drawn_rows(records, config.generation.rows)
    written = learner.write_answers(
        model,
        [records[row] for row in rows],
        max_new_tokens=config.generation.max_new_tokens,
        batch_size=config.batch_size,
    )

    answers: list[str | None] = [None] * len(records)
    expected: list[str | None] = [None] * len(records)
    for row, answer in zip(rows, written, strict=True):
        answers[row], expected[row] = answer, _prompt_and_answer(records[row])[1]
    return with_answers(scores, answers, expected, _checks(config.generation))


def answer_table(records: Sequence[Record], before: Scores, after: Scores) -> pd.DataFrame:
    """Return a line for each answer: prompt, expected answer, and what both models wrote."""
    lines = []
    for row, record in enumerate(records):
        if after.per_example[WRITTEN][row] is None:
            continue
        prompt, expected = _prompt_and_answer(record)
        line = {
            "row_id": record.get("row_id"),
            "prompt": prompt,
            "expected": expected,
            "before": before.per_example[WRITTEN][row],
            "after": after.per_example[WRITTEN][row],
        }
        for moment, scores in (("before", before), ("after", after)):
            line[f"exact_match_{moment}"] = bool(scores.per_example["exact_match"][row])
            line[f"chrf_{moment}"] = round(float(scores.per_example["chrf"][row]), 4)
        lines.append(line)
    return pd.DataFrame(lines)


def _drawn_rows(records: Sequence[Record], limit: int) -> list[int]:
    """Return the indices of at most `limit` records with an answer, chosen by a hash of them."""
    digests = {}
    for row, record in enumerate(records):
        conversation = last_answer(record)
        if conversation is not None:
            digests[row] = value_fingerprint(conversation)
    return sorted(sorted(digests, key=digests.__getitem__)[:limit])


def _prompt_and_answer(record: Record) -> tuple[str, str]:
    """Return the prompt and the last answer of a record as text."""
    conversation = last_answer(record)
    if conversation is None:
        raise ValueError("record must have an answer to a prompt, got none.")

    messages, answer = conversation
    if len(messages) == 1:
        return messages[0]["content"], answer
    turns = [f"{message['role']}: {message['content']}" for message in messages]
    return "\n".join(turns), answer


def _checks(config: GenerationConfig) -> AnswerChecks:
    return AnswerChecks(
        pattern=None if config.pattern is None else read_pattern(config.pattern),
        schema=None if config.json_schema is None else read_json_schema(config.json_schema),
    )
