"""How often the interval of a language model's metric holds its true value.

`pytest -m slow -s tests/slow/test_metric_coverage.py` prints the table.
"""

from dataclasses import replace

import numpy as np
import pytest
from tests.slow.coverage import Draw, check_metrics, normal

from tunetrail.evaluation.chrf import CHRF_MATCHES
from tunetrail.evaluation.language_scores import language_scores, preference_scores
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.scores import Scores, scores_from

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DATA_SETS = 2000
"""The standard error of a coverage of 95 % is then 0.5 points."""


def drawn_scores(generator: np.random.Generator, group_of: Array, level: float) -> Scores:
    """Scores of a model whose quality differs from row to row; rows of one group share half of it."""
    rows = len(group_of)
    latent = normal(generator, group_of, 1)[:, 0]
    quality = np.clip(0.3 + 0.5 * level + 0.15 * latent, 0.02, 0.98)

    tokens = np.ceil(60.0 * generator.lognormal(0.0, 0.5, rows))
    hits = generator.binomial(tokens.astype(int), quality).astype(float)
    # A worse text costs more: between one and three nats per token.
    nats = tokens * (3.0 - 2.0 * quality)
    language = language_scores(nats, tokens, 4.0 * tokens, 0.9 * nats, hits)

    expected, written = np.ceil(4.0 * tokens), np.ceil(generator.uniform(2.0, 6.0, rows) * tokens)
    values = {
        "expected_characters": expected,
        "written_characters": written,
        "chrf": quality,
        "rouge_l": quality,
        # From 2 % to 50 % right, from 50 % to 98 %, and from 93 % to 99.4 %.
        "exact_match": (latent > 2.0 - 2.0 * level).astype(float),
        "pattern_match": (latent > -2.0 * level).astype(float),
        "schema_match": (latent > -1.5 - level).astype(float),
    }
    shorter = np.minimum(expected, written)
    for length, name in enumerate(CHRF_MATCHES, start=1):
        # An n-gram is shared if all of its characters are.
        possible = np.maximum(shorter - length + 1, 0.0)
        values[name] = np.floor(possible * quality ** (0.5 * length))
    answers = scores_from(values, "rouge_l", "chrf", "exact_match", "pattern_match", "schema_match")
    return replace(
        language,
        metrics=language.metrics | answers.metrics,
        per_example=language.per_example | answers.per_example,
    )


def drawn_preferences(generator: np.random.Generator, group_of: Array, level: float) -> Scores:
    """Chosen answers that are likelier than the rejected ones in half to 98 % of the rows."""
    rows = len(group_of)
    margin = 2.0 * level + normal(generator, group_of, 1)[:, 0]
    tokens = np.ceil(60.0 * generator.lognormal(0.0, 0.5, rows))
    chosen, rejected = (
        language_scores(tokens * loss, tokens, 4.0 * tokens)
        for loss in (2.0 - 0.1 * margin, np.full(rows, 2.0))
    )
    return preference_scores(chosen, rejected)


@pytest.mark.parametrize("grouped", [False, True], ids=["independent", "grouped"])
@pytest.mark.parametrize("rows", [30, 100, 300])
@pytest.mark.parametrize("draw", [drawn_scores, drawn_preferences])
def test_intervals_hold_the_true_metric_in_93_to_97_percent(
    draw: Draw, rows: int, grouped: bool
) -> None:
    check_metrics(draw, rows, grouped, DATA_SETS)
