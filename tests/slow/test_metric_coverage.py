"""How often the interval of a metric holds its true value: token accuracy, ROUGE-L and chrF.

`pytest -m slow -s tests/slow/test_metric_coverage.py` prints the table.
"""

from dataclasses import replace

import numpy as np
import pytest

from tunetrail.evaluation.intervals import metric_intervals
from tunetrail.evaluation.metrics import CHRF_MATCHES, Array
from tunetrail.evaluation.scores import Scores, language_scores, scores_from

pytestmark = pytest.mark.slow

METRICS = ("token_accuracy", "rouge_l", "chrf")
DATA_SETS = 2000
"""The standard error of a coverage of 95 % is then 0.5 points."""


def drawn_scores(generator: np.random.Generator, group_of: Array) -> Scores:
    """Scores of a model whose quality differs from row to row; rows of one group share half of it."""
    rows = len(group_of)
    shared = generator.normal(size=int(group_of.max()) + 1)[group_of]
    quality = np.clip(
        0.5 + 0.15 * (shared + generator.normal(size=rows)) / np.sqrt(2.0), 0.02, 0.98
    )

    tokens = np.ceil(60.0 * generator.lognormal(0.0, 0.5, rows))
    hits = generator.binomial(tokens.astype(int), quality).astype(float)
    language = language_scores(tokens, tokens, 4.0 * tokens, hits=hits)

    expected, written = np.ceil(4.0 * tokens), np.ceil(generator.uniform(2.0, 6.0, rows) * tokens)
    values = {
        "expected_characters": expected,
        "written_characters": written,
        "chrf": quality,
        "rouge_l": quality,
    }
    shorter = np.minimum(expected, written)
    for length, name in enumerate(CHRF_MATCHES, start=1):
        # An n-gram is shared if all of its characters are.
        possible = np.maximum(shorter - length + 1, 0.0)
        values[name] = np.floor(possible * quality ** (0.5 * length))
    answers = scores_from(values, "rouge_l", "chrf")
    return replace(
        language,
        metrics=language.metrics | answers.metrics,
        per_example=language.per_example | answers.per_example,
    )


@pytest.fixture(scope="module")
def truth() -> dict[str, float]:
    scores = drawn_scores(np.random.default_rng(99), np.arange(1_000_000))
    return {name: scores.metrics[name] for name in METRICS}


@pytest.mark.parametrize("grouped", [False, True], ids=["independent", "grouped"])
@pytest.mark.parametrize("rows", [30, 100, 300])
def test_intervals_hold_the_true_metric_in_93_to_97_percent(
    truth: dict[str, float], rows: int, grouped: bool
) -> None:
    generator = np.random.default_rng(rows)
    group_of = np.arange(rows) * 2 // 3 if grouped else np.arange(rows)
    covered = dict.fromkeys(METRICS, 0)

    for seed in range(DATA_SETS):
        scores = drawn_scores(generator, group_of)
        if grouped:
            scores = replace(scores, clusters=list(map(str, group_of)))
        intervals = metric_intervals(scores, bootstrap_samples=1000, confidence=0.95, seed=seed)
        for name in METRICS:
            covered[name] += intervals[name].lower <= truth[name] <= intervals[name].upper

    shares = {name: count / DATA_SETS for name, count in covered.items()}
    kind = "grouped" if grouped else "independent"
    print(
        f"{rows} rows, {kind}: "
        + ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    )
    assert all(0.93 <= share <= 0.97 for share in shares.values())
