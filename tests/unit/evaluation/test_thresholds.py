import numpy as np
import pytest
from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.scores import Scores, similarity_scores
from tunetrail.evaluation.thresholds import average_precision_of_counts, average_precision_shares


def vectors_of_cosines(cosines: Array) -> tuple[Array, Array]:
    """Return two vectors in the plane for each cosine."""
    first = np.tile([1.0, 0.0], (len(cosines), 1))
    return first, np.stack([cosines, np.sqrt(1.0 - cosines**2)], axis=1)


def scored(seed: int, pairs: int, steps: int) -> Scores:
    """Score pairs whose cosines take few values, so that many of them tie."""
    generator = np.random.default_rng(seed)
    gold = generator.integers(0, 2, pairs).astype(float)
    gold[:2] = (0.0, 1.0)
    cosines = np.clip(generator.normal(0.2 * gold, 0.3), -0.9, 0.9)
    return similarity_scores(*vectors_of_cosines(np.round(cosines * steps) / steps), gold)


@pytest.mark.parametrize("steps", [4, 20, 100_000], ids=["many ties", "some ties", "no ties"])
@pytest.mark.parametrize("seed", range(5))
def test_pairs_agree_with_scikit_learn_and_sentence_transformers(seed: int, steps: int) -> None:
    scores = scored(seed, 60, steps)
    cosine, gold = scores.per_example["cosine"], scores.per_example["gold"]

    # All three put pairs of equal cosine on the same side of a threshold: no tie is to decide.
    evaluator = BinaryClassificationEvaluator
    f1, _, _, f1_threshold = evaluator.find_best_f1_and_threshold(cosine, gold, True)
    accuracy, threshold = evaluator.find_best_acc_and_threshold(cosine, gold, True)
    assert scores.metrics["average_precision"] == pytest.approx(
        average_precision_score(gold, cosine)
    )
    assert scores.metrics["best_f1"] == pytest.approx(f1)
    assert scores.metrics["best_accuracy"] == pytest.approx(accuracy)
    assert scores.thresholds == pytest.approx({"best_f1": f1_threshold, "best_accuracy": threshold})

    predicted = {name: cosine >= value for name, value in scores.thresholds.items()}
    assert f1_score(gold, predicted["best_f1"]) == pytest.approx(scores.metrics["best_f1"])
    is_right = scores.per_example["best_accuracy"]
    assert accuracy_score(gold, predicted["best_accuracy"]) == pytest.approx(is_right.mean())


def test_pairs_of_one_cosine_are_all_positive_or_none() -> None:
    gold = [1.0, 0.0, 0.0, 0.0]
    scores = similarity_scores(*vectors_of_cosines(np.full(4, 0.5)), gold)
    # All that can be said is "positive" or "negative": as good as not to look.
    expected = {"average_precision": 0.25, "best_f1": 0.4, "best_accuracy": 0.75}
    assert {name: scores.metrics[name] for name in expected} == pytest.approx(expected)
    assert scores.thresholds["best_accuracy"] > 0.5 == scores.thresholds["best_f1"]


@pytest.mark.parametrize(
    "gold", [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.5, 1.0], [1.0, 2.0, 1.0]]
)
def test_gold_that_is_not_two_classes_has_no_classification(gold: list[float]) -> None:
    scores = similarity_scores(*vectors_of_cosines(np.array([0.1, 0.2, 0.3])), gold)
    assert set(scores.metrics) == {"spearman", "pearson"} and scores.thresholds == {}


@pytest.mark.parametrize("steps", [4, 100_000], ids=["ties", "no ties"])
def test_average_precision_of_counts_is_scikit_learns_with_weights(steps: int) -> None:
    scores = scored(1, 80, steps)
    cosine, gold = scores.per_example["cosine"], scores.per_example["gold"]
    counts = np.random.default_rng(0).integers(0, 4, (5, 80)).astype(float)
    counts[-1] = gold == 0.0

    values = average_precision_of_counts(cosine, gold)(counts)

    expected = [average_precision_score(gold, cosine, sample_weight=row) for row in counts[:-1]]
    assert values[:-1] == pytest.approx(expected)
    # No positive pair was drawn.
    assert np.isnan(values[-1])


@pytest.mark.parametrize("steps", [4, 100_000], ids=["ties", "no ties"])
def test_shares_of_average_precision_are_its_derivatives(steps: int) -> None:
    scores = scored(2, 50, steps)
    cosine, gold = scores.per_example["cosine"], scores.per_example["gold"]
    of_counts = average_precision_of_counts(cosine, gold)

    shares = average_precision_shares(cosine, gold)

    value = scores.metrics["average_precision"]
    changed = of_counts(np.ones((50, 50)) + 1e-6 * np.eye(50))
    assert shares.mean() == pytest.approx(value)
    assert shares == pytest.approx(value + 50 * (changed - value) / 1e-6, abs=1e-3)


def test_best_f1_of_a_resample_keeps_the_threshold_of_all_pairs() -> None:
    scores = scored(3, 40, 100_000)
    cosine, gold = scores.per_example["cosine"], scores.per_example["gold"]
    indices = np.random.default_rng(0).integers(40, size=(3, 40))
    counts = np.stack([np.bincount(row, minlength=40) for row in indices]).astype(float)

    values = metric_named("best_f1").resampler(scores.per_example, np.arange(40))(counts)

    predicted = cosine >= scores.thresholds["best_f1"]
    expected = [f1_score(gold[row], predicted[row]) for row in indices]
    assert values == pytest.approx(expected)
