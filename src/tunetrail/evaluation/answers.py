"""Scores of what a language model writes, next to the answers that it should have written."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sacrebleu.metrics.chrf import CHRF

from tunetrail.evaluation.chrf import CHRF_MATCHES
from tunetrail.evaluation.further_metrics import FurtherMetric
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.metrics import ANSWER_METRICS, answer_metrics_of, metric_named
from tunetrail.evaluation.scores import Scores, check_equal
from tunetrail.evaluation.share_intervals import Interval
from tunetrail.reporting.readable import counted

WRITTEN = "written"
"""The per-example texts that the model has written; None if it was asked for none."""

# Letters and digits of any script. Of ASCII texts, these are the words of rouge-score.
_WORD = re.compile(r"[^\W_]+")
_CHRF = CHRF()


@dataclass(frozen=True, kw_only=True)
class AnswerChecks:
    """What answers are checked for, in addition to their likeness to the expected ones.

    Attributes:
        pattern: Looked for in answers. If it has a group, the group is what an exact match
            compares.
        schema: jsonschema's validator of a JSON schema.
        further: Metrics of installed packages.
    """

    pattern: re.Pattern[str] | None = None
    schema: Any = None
    further: Sequence[FurtherMetric] = ()


def with_answers(
    scores: Scores,
    answers: Sequence[str | None],
    expected: Sequence[str | None],
    checks: AnswerChecks,
) -> Scores:
    """Return the scores with the metrics of what the model has written.

    `exact_match`, `rouge_l`, and with the checks `pattern_match` and `schema_match`, are means over
    the examples that have an answer; `chrf` is that of all answers together, as sacrebleu's
    `corpus_score`. All are between 0 and 1; the primary metric stays.

    Args:
        scores: Scores of the examples.
        answers: What the model has written for each; None for examples that it wasn't asked about.
        expected: The true answers.
        checks: What the answers are checked for.

    Raises:
        ValueError: There are more or fewer answers than examples.
    """
    check_equal("number of answers", len(answers), scores.examples)
    check_equal("number of expected answers", len(expected), scores.examples)
    rows = [row for row, answer in enumerate(answers) if answer is not None]
    if not rows:
        return scores

    # The other examples keep NaN, which the metrics leave out.
    values: dict[str, Array] = {}
    for row in rows:
        answer_values = _values_of(answers[row] or "", expected[row] or "", checks)
        for name, value in answer_values.items():
            values.setdefault(name, np.full(len(answers), np.nan))[row] = value

    everything = np.arange(len(answers))[np.newaxis, :]
    further = [metric.metric.name for metric in checks.further]
    names = [name for name in (*ANSWER_METRICS, *further) if name in values]
    metrics = {name: float(metric_named(name).statistic(values, everything)[0]) for name in names}
    texts = {WRITTEN: np.array(answers, dtype=object)}
    return replace(
        scores,
        metrics=scores.metrics | metrics,
        per_example=scores.per_example | values | texts,
    )


def mask_answers(scores: Scores, mask: Callable[[str], str]) -> Scores:
    """Return the scores with personal data replaced in what the model has written.

    The metrics stay: they compare what was really written.
    """
    if WRITTEN not in scores.per_example:
        return scores

    answers = scores.per_example[WRITTEN].astype(object)
    for index, answer in enumerate(answers):
        if answer is not None:
            answers[index] = mask(answer)
    return replace(scores, per_example={**scores.per_example, WRITTEN: answers})


def _values_of(answer: str, expected: str, checks: AnswerChecks) -> dict[str, float]:
    values = {
        "exact_match": float(exact_match(answer, expected, checks.pattern)),
        "rouge_l": rouge_l(answer, expected),
        "chrf": chrf(answer, expected),
        **chrf_counts(answer, expected),
    }
    if checks.pattern is not None:
        values["pattern_match"] = float(checks.pattern.search(answer) is not None)
    if checks.schema is not None:
        values["schema_match"] = float(satisfies(answer, checks.schema))
    for further in checks.further:
        values[further.metric.name] = further.value(answer, expected)
    return values


def exact_match(answer: str, expected: str, pattern: re.Pattern[str] | None = None) -> bool:
    """Tell whether two answers are equal, except for white space around them.

    With a pattern, what it captures last is compared; all of the texts if it isn't in the expected
    one.
    """
    captured = None if pattern is None else _captured(expected, pattern)
    if pattern is None or captured is None:
        return answer.strip() == expected.strip()
    return _captured(answer, pattern) == captured


def _captured(text: str, pattern: re.Pattern[str]) -> str | None:
    """Return the first group of the last match, all of it without a group; None without a match."""
    captured = None
    for match in pattern.finditer(text):
        group = match.group(1) if pattern.groups else match.group()
        # An optional group may have taken no part in the match.
        captured = match.group() if group is None else group
    return None if captured is None else captured.strip()


def rouge_l(answer: str, expected: str) -> float:
    """Return ROUGE-L, the F1 of the longest common subsequence of words.

    From Lin 2004 (https://aclanthology.org/W04-1013). Of texts in ASCII, it is the value of
    rouge-score without stemming. That package drops all other letters, which leaves nothing of a
    text in Greek; here, words of any script count.
    """
    answer_words, expected_words = _WORD.findall(answer.lower()), _WORD.findall(expected.lower())
    common = _common_subsequence(answer_words, expected_words)
    # 2PR / (P + R), with the precision P = common / answer words and the recall R.
    return 2.0 * common / max(len(answer_words) + len(expected_words), 1)


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    # One line of the usual table; `diagonal` is the cell above and to the left.
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for column, second_word in enumerate(second, start=1):
            above = lengths[column]
            is_equal = word == second_word
            lengths[column] = diagonal + 1 if is_equal else max(above, lengths[column - 1])
            diagonal = above
    return lengths[-1]


def chrf(answer: str, expected: str) -> float:
    """Return chrF, the F2 of character n-grams of up to 6, as sacrebleu computes it.

    From Popović 2015 (https://aclanthology.org/W15-3049).
    """
    return float(_CHRF.sentence_score(answer, [expected]).score) / 100.0


def chrf_counts(answer: str, expected: str) -> dict[str, float]:
    """Return what chrF of several answers together is computed from; see `CHRF_MATCHES`."""
    written, true = ("".join(text.split()) for text in (answer, expected))
    counts = {"written_characters": float(len(written)), "expected_characters": float(len(true))}
    for length, name in enumerate(CHRF_MATCHES, start=1):
        shared = _ngrams(written, length) & _ngrams(true, length)
        counts[name] = float(shared.total())
    return counts


def _ngrams(text: str, length: int) -> Counter[str]:
    return Counter(text[start : start + length] for start in range(len(text) - length + 1))


def satisfies(answer: str, schema: Any) -> bool:
    """Tell whether an answer is JSON that satisfies the schema of jsonschema's validator."""
    try:
        return bool(schema.is_valid(json.loads(answer)))
    # Text that is no JSON, or nested deeper than Python's stack.
    except (ValueError, RecursionError):
        return False


def answer_summary(
    before: Scores,
    after: Scores,
    before_intervals: Mapping[str, Interval],
    after_intervals: Mapping[str, Interval],
    confidence: float,
) -> dict[str, Any] | None:
    """Return the metrics of the answers of two models, as plain values; None without answers.

    Args:
        before: Scores of the version to beat.
        after: Scores of the candidate.
        before_intervals: The intervals of its metrics, by name.
        after_intervals: The same of the candidate.
        confidence: Level of the intervals.
    """
    if WRITTEN not in before.per_example or WRITTEN not in after.per_example:
        return None

    metrics: dict[str, Any] = {}
    for name in answer_metrics_of(after.metrics):
        values: dict[str, Any] = {"before": before.metrics[name], "after": after.metrics[name]}
        for moment, intervals in (("before", before_intervals), ("after", after_intervals)):
            if name in intervals:
                values[f"{moment}_interval"] = list(intervals[name])
        metrics[name] = values
    examples = int(np.count_nonzero(~np.isnan(after.per_example["exact_match"])))
    return {"answers": examples, "confidence": confidence, "metrics": metrics}


def answer_sentence(summary: Mapping[str, Any]) -> str:
    """Return the summary in one line for people."""
    phrases = []
    for name, values in summary["metrics"].items():
        label = ANSWER_METRICS.get(name, name)
        phrase = f"{label} {values['before']:.3f} -> {values['after']:.3f}"
        if "after_interval" in values:
            lower, upper = values["after_interval"]
            phrase += f" [{lower:.3f}, {upper:.3f}]"
        phrases.append(phrase)
    return f"{counted(summary['answers'], 'answer')} written: {', '.join(phrases)}"
