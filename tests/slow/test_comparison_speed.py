"""What the interval of 100,000 pairs takes: `pytest -m slow -s tests/slow/test_comparison_speed.py`."""

import dataclasses
import time

import numpy as np
import pytest

from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.scores import Scores, scores_from

pytestmark = pytest.mark.slow


def two_models(metric: str, rows: int) -> tuple[Scores, Scores]:
    """The second is better; groups have one to three rows."""
    generator = np.random.default_rng(rows)
    clusters = np.repeat(np.arange(rows), generator.integers(1, 4, size=rows))[:rows]
    names = list(map(str, generator.permutation(clusters)))
    gold = generator.uniform(0.0, 5.0, size=rows)
    models = []
    for noise in (0.3, 0.25):
        cosine = np.round(np.tanh(gold / 10.0 + generator.normal(scale=noise, size=rows)), 6)
        values = {"cosine": cosine, "gold": gold, "ndcg_at_10": cosine.clip(0.0, 1.0)}
        models.append(dataclasses.replace(scores_from(values, metric), clusters=names))
    before, after = models
    return before, after


@pytest.mark.parametrize("rows", [20_000, 100_000])
@pytest.mark.parametrize("metric", ["ndcg_at_10", "pearson", "spearman"])
def test_intervals_of_many_pairs(metric: str, rows: int) -> None:
    before, after = two_models(metric, rows)

    start, cpu_start = time.perf_counter(), time.process_time()
    result = compare(before, after, bootstrap_samples=10_000, confidence=0.95, seed=0)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start

    # Printed for the lab log; how fast the machine is decides nothing.
    print(f"\n{metric}, {rows:,} pairs: {seconds:.1f} s, {cpu_seconds:.1f} s of CPU")
    assert result.lower is not None and result.upper is not None
    assert result.lower < result.improvement < result.upper
    if metric != "ndcg_at_10":
        assert result.lower > 0.0
