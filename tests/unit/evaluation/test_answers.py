import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu import corpus_chrf, sentence_chrf
from scipy.stats import norm
from torchmetrics.functional.text.rouge import rouge_score

from tunetrail.evaluation.answers import (
    WRITTEN,
    AnswerChecks,
    answer_sentence,
    answer_summary,
    chrf,
    exact_match,
    rouge_l,
    satisfies,
    with_answers,
)
from tunetrail.evaluation.intervals import metric_intervals
from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.share_intervals import Interval, share_interval

WORDS = st.lists(
    st.sampled_from(["the", "cat", "sat", "on", "mat,", "The_Cat", "12", "it's", "-", ""]),
    max_size=12,
)
TEXTS = WORDS.map(" ".join) | st.text(st.characters(max_codepoint=127), max_size=40)
ANSWER = re.compile(r"#### (\S+)")


def scores(examples: int = 4) -> Scores:
    sizes = np.arange(1, examples + 1)
    return language_scores(2.0 * sizes, sizes, 3 * sizes)


@given(TEXTS, TEXTS)
def test_rouge_l_equals_rouge_score_and_torchmetrics(answer: str, expected: str) -> None:
    value = rouge_l(answer, expected)

    reference = RougeScorer(["rougeL"]).score(expected, answer)["rougeL"].fmeasure
    assert value == pytest.approx(reference, abs=1e-12)
    other = rouge_score([answer], [expected], rouge_keys="rougeL")["rougeL_fmeasure"]
    assert value == pytest.approx(float(other), abs=1e-6)


@given(st.text(max_size=40), st.text(max_size=40))
def test_rouge_l_of_any_script_equals_rouge_score_with_the_same_words(
    answer: str, expected: str
) -> None:
    class Words:
        def tokenize(self, text: str) -> list[str]:
            return re.findall(r"[^\W_]+", text.lower())

    reference = RougeScorer(["rougeL"], tokenizer=Words()).score(expected, answer)
    assert rouge_l(answer, expected) == pytest.approx(reference["rougeL"].fmeasure, abs=1e-12)
    assert rouge_l("Ἡ γάτα κάθεται", "ἡ γάτα τρέχει") == pytest.approx(2 / 3)


@given(TEXTS | st.text(max_size=30), TEXTS | st.text(max_size=30))
def test_chrf_equals_sacrebleu(answer: str, expected: str) -> None:
    assert 100.0 * chrf(answer, expected) == pytest.approx(sentence_chrf(answer, [expected]).score)


@pytest.mark.parametrize(
    ("answer", "expected", "pattern", "equal"),
    [
        (" four\n", "four", None, True),
        ("Four", "four", None, False),
        ("2 + 2 = 4\n#### 4", "It is\n#### 4", ANSWER, True),
        ("#### 5 no, #### 4", "#### 4", ANSWER, True),
        ("4", "#### 4", ANSWER, False),
        ("four", "four", ANSWER, True),
        ("#### 4", "four", ANSWER, False),
        ("ab 12", "cd 12", re.compile(r"\d+"), True),
        ("x", "y", re.compile(r"x(z)?|y(z)?"), False),
    ],
)
def test_exact_match_compares_what_the_pattern_captures(
    answer: str, expected: str, pattern: re.Pattern[str] | None, equal: bool
) -> None:
    assert exact_match(answer, expected, pattern) is equal


@pytest.mark.parametrize(
    ("answer", "satisfied"),
    [
        ('{"a": 1}', True),
        ('{"a": "1"}', False),
        ("a: 1", False),
        ("[" * 100_000, False),
        ("9" * 10_000, False),
        ("", False),
    ],
)
def test_satisfies_a_json_schema(answer: str, satisfied: bool) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert satisfies(answer, Draft202012Validator(schema)) is satisfied


def test_with_answers_adds_values_of_the_examples_that_have_an_answer() -> None:
    checks = AnswerChecks(pattern=ANSWER, schema=Draft202012Validator({"type": "object"}))
    before = scores()

    answered = with_answers(
        before,
        ["#### 4", None, "{}", "so #### 5"],
        ["well #### 4", None, "{}", "#### 4"],
        checks,
    )

    assert answered.metric == before.metric and answered.value == before.value
    assert answered.metrics["exact_match"] == pytest.approx(2 / 3)
    assert answered.metrics["pattern_match"] == pytest.approx(2 / 3)
    assert answered.metrics["schema_match"] == pytest.approx(1 / 3)
    np.testing.assert_equal(answered.per_example["exact_match"], [1.0, np.nan, 1.0, 0.0])
    assert answered.per_example[WRITTEN].tolist() == ["#### 4", None, "{}", "so #### 5"]
    rouge_values = answered.per_example["rouge_l"]
    assert answered.metrics["rouge_l"] == pytest.approx(np.nanmean(rouge_values), abs=1e-12)
    assert np.isnan(answered.per_example["chrf"]).tolist() == [False, True, False, False]
    assert "written" in answered.table() and "written" not in answered.to_dict()["metrics"]


def test_scores_without_answers_stay_as_they_are() -> None:
    before = scores()
    assert with_answers(before, [None] * 4, [None] * 4, AnswerChecks()) is before
    assert answer_summary(before, before, {}, {}, 0.95) is None
    with pytest.raises(ValueError, match="number of answers must be 4, got 3"):
        with_answers(before, [None] * 3, [None] * 4, AnswerChecks())


def test_a_resample_without_answers_has_no_value() -> None:
    values = {"exact_match": np.array([1.0, np.nan, 0.0])}
    statistic = metric_named("exact_match").statistic(values, np.array([[0, 0, 2], [1, 1, 1]]))
    np.testing.assert_allclose(statistic, [2 / 3, np.nan])


def wilson(hits: int, examples: int, z: float = 1.959963984540054) -> list[float]:
    share = hits / examples
    middle = (share + z * z / (2 * examples)) / (1 + z * z / examples)
    spread = np.sqrt(share * (1 - share) / examples + (z / (2 * examples)) ** 2)
    half = z * spread / (1 + z * z / examples)
    return [middle - half, middle + half]


@pytest.mark.parametrize(("hits", "examples"), [(0, 10), (10, 10), (7, 50), (299, 300), (1, 1)])
def test_share_interval_is_wilsons(hits: int, examples: int) -> None:
    interval = share_interval(hits / examples, examples, norm.isf(0.025))
    np.testing.assert_allclose(interval, wilson(hits, examples), atol=1e-9)


def test_answer_summary_has_intervals_of_shares_and_reads_as_a_sentence() -> None:
    before, after = (
        with_answers(scores(), answers, ["yes"] * 4, AnswerChecks())
        for answers in (["no"] * 4, ["yes", "yes", "yes", "no"])
    )

    summary = answer_summary(before, after, intervals(before), intervals(after), 0.95)

    assert summary is not None and summary["answers"] == 4
    np.testing.assert_allclose(summary["metrics"]["exact_match"]["after_interval"], wilson(3, 4))
    corpus = corpus_chrf(["yes", "yes", "yes", "no"], [["yes"] * 4]).score / 100.0
    assert answer_sentence(summary) == (
        "4 answers written: exact match 0.000 -> 0.750 [0.301, 0.954], "
        f"ROUGE-L 0.000 -> 0.750, chrF 0.000 -> {corpus:.3f}"
    )


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_chrf_of_all_answers_equals_sacrebleus_corpus_score(pairs: list[tuple[str, str]]) -> None:
    answers, expected = zip(*pairs, strict=True)
    scored = with_answers(scores(len(pairs)), answers, expected, AnswerChecks())
    reference = corpus_chrf(list(answers), [list(expected)]).score / 100.0
    assert scored.metrics["chrf"] == pytest.approx(reference, abs=1e-12)


def test_answers_of_some_rows_have_the_intervals_of_these_rows_alone() -> None:
    drawn = np.random.default_rng(0)
    words = ["cat", "dog", "sat", "ran", "on", "off"]
    answers = [" ".join(drawn.choice(words, 4)) for _ in range(40)]
    expected = [" ".join(drawn.choice(words, 4)) for _ in range(40)]
    few = with_answers(scores(40), answers, expected, AnswerChecks())
    unanswered = [None] * 400
    many = with_answers(
        scores(440), [*answers, *unanswered], [*expected, *unanswered], AnswerChecks()
    )

    for name in ("exact_match", "rouge_l", "chrf"):
        lower, upper = intervals(few)[name]
        assert intervals(many)[name] == (lower, upper)
        assert lower <= few.metrics[name] <= upper and upper - lower > 0.01


def intervals(scored: Scores) -> dict[str, Interval]:
    return metric_intervals(scored, bootstrap_samples=1000, confidence=0.95, seed=0)
