import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.fold_gain import (
    PairedGain,
    corrected_interval,
    paired_gain,
    pool_folds,
    recipe_key,
    recipe_name,
)
from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.scores import Scores, scores_from


def scored(nats: float) -> Scores:
    return language_scores(np.array([nats]), np.array([1]), np.array([1]))


def ranked(values: list[float], first_row: int, corpus: str = "c") -> Scores:
    """Scores of queries whose rows are numbered from `first_row`, two in each cluster."""
    scores = scores_from({"ndcg_at_10": np.array(values)}, "ndcg_at_10")
    row_ids = list(range(first_row, first_row + len(values)))
    clusters = [str(row_id // 2) for row_id in row_ids]
    return replace(scores, row_ids=row_ids, clusters=clusters, documents=40, corpus=corpus)


def gain_of(before: list[Scores], after: list[Scores], **changes: Any) -> PairedGain:
    settings = {"budget": 0.2, "test_ratio": 0.25, "bootstrap_samples": 500, "confidence": 0.95}
    return paired_gain(before, after, seed=0, **{**settings, **changes})


def two_folds() -> tuple[list[Scores], list[Scores]]:
    generator = np.random.default_rng(0)
    base = generator.uniform(0.2, 0.8, size=(2, 20))
    trained = base + generator.normal(0.05, 0.05, size=base.shape)
    before = [ranked(base[fold].tolist(), 20 * fold, f"c{fold}") for fold in range(2)]
    after = [ranked(trained[fold].tolist(), 20 * fold, f"c{fold}") for fold in range(2)]
    return before, after


def test_paired_gain_compares_the_rows_of_all_folds_like_any_two_models() -> None:
    before, after = two_folds()
    gain = gain_of(before, after)

    pooled = [
        ranked(np.concatenate([s.per_example["ndcg_at_10"] for s in side]).tolist(), 0)
        for side in (before, after)
    ]
    assert gain.comparison == compare(*pooled, bootstrap_samples=500, confidence=0.95, seed=0)
    assert (gain.comparison.examples, gain.comparison.clusters) == (40, 20)
    assert gain.comparison.lower is not None and gain.comparison.lower > 0.0

    assert gain.base_folds == tuple(scores.value for scores in before)
    assert gain.mean_difference == pytest.approx(gain.comparison.improvement)
    assert gain.sentence.startswith("recipe at 20 % of the steps: nDCG@10 0.")
    assert "over 40 held-out rows in 20 groups of 2 folds" in gain.sentence
    assert PairedGain.from_dict(json.loads(json.dumps(gain.to_dict(), allow_nan=False))) == gain


def test_paired_gain_of_a_metric_that_falls_is_positive_if_the_trained_model_is_better() -> None:
    before = [language_scores(np.full(8, 4.0), np.ones(8), np.ones(8)) for _ in range(2)]
    after = [language_scores(np.full(8, 3.0), np.ones(8), np.ones(8)) for _ in range(2)]
    gain = gain_of(before, after)
    assert gain.comparison.improvement == pytest.approx(1.0 / np.log(2))
    assert gain.differences == pytest.approx([1.0 / np.log(2)] * 2)


def test_paired_gain_of_one_fold_has_no_interval_of_the_mean() -> None:
    before, after = two_folds()
    gain = gain_of(before[:1], after[:1])
    assert (gain.standard_error, gain.mean_lower, gain.mean_upper) == (None, None, None)
    assert "of 1 fold" in gain.sentence and "mean of the folds" not in gain.sentence
    assert set(gain.figures) >= {"improvement", "mean_difference"}
    assert "mean_lower" not in gain.figures


def test_paired_gain_refuses_rankings_of_other_documents() -> None:
    before, after = two_folds()
    after[1] = replace(after[1], corpus="of other documents")
    with pytest.raises(ValueError, match="corpus must be the same before and after"):
        gain_of(before, after)


def test_paired_gain_of_correlations_does_not_depend_on_the_scale_of_a_fold() -> None:
    """Each fold's model orders its own pairs as the base does, but its cosines are all higher."""
    generator = np.random.default_rng(0)
    cosines, gold = generator.uniform(size=(2, 30)), generator.uniform(size=(2, 30))

    def of_fold(fold: int, shift: float) -> Scores:
        return scores_from({"cosine": cosines[fold] + shift, "gold": gold[fold]}, "spearman")

    before = [of_fold(fold, 0.0) for fold in range(2)]
    gain = gain_of(before, [of_fold(0, 0.0), of_fold(1, 5.0)])
    assert gain.comparison.improvement == 0.0 and gain.comparison.differing == 0
    pooled = pool_folds(before, [of_fold(0, 0.0), of_fold(1, 5.0)], [1, 2])
    assert pooled.after.per_example["cosine"].max() > 5.0


def test_pooled_folds_have_a_line_for_each_held_out_row() -> None:
    before, after = two_folds()
    pooled = pool_folds(before, after, [2, 4])

    table = pooled.table()
    assert table.columns.tolist() == [
        "row_id", "cluster", "ndcg_at_10", "fold", "reference_ndcg_at_10"
    ]  # fmt: skip
    assert table["row_id"].tolist() == list(range(40))
    assert table["fold"].tolist() == [2] * 20 + [4] * 20
    assert table["ndcg_at_10"].mean() == pytest.approx(pooled.after.value)
    assert table["reference_ndcg_at_10"].mean() == pytest.approx(pooled.before.value)
    assert (pooled.after.documents, pooled.after.corpus) == (40, pooled.before.corpus)


@pytest.mark.parametrize(("folds", "test_ratio"), [(2, 1.0), (5, 0.25), (3, 0.46)])
def test_corrected_interval_covers_the_mean_of_correlated_folds(
    folds: int, test_ratio: float
) -> None:
    """Differences that share a part as large as the correction assumes: variance r, and 1 each."""
    generator = np.random.default_rng(folds)
    shared = generator.normal(0.0, np.sqrt(test_ratio), size=(4000, 1))
    samples = shared + generator.normal(size=(4000, folds))
    intervals = [corrected_interval(sample.tolist(), test_ratio, 0.95) for sample in samples]
    covered = np.mean([interval.lower <= 0.0 <= interval.upper for interval in intervals])
    assert 0.93 < covered < 0.97


def test_recipe_is_named_after_the_share_of_the_steps() -> None:
    assert recipe_name(0.2) == "recipe at 20 % of the steps"
    assert recipe_name(0.125) == "recipe at 12.5 % of the steps"
    assert recipe_key(1.0) == "recipe_at_100_percent"
