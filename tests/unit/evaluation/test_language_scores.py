import json
import math

import numpy as np
import pytest

from tunetrail.evaluation.language_scores import language_scores


def test_language_scores_follow_their_formulas() -> None:
    scores = language_scores(np.array([2.0, 4.0]), np.array([1, 2]), np.array([4, 8]))
    expected = {"bits_per_byte": 6.0 / (12 * math.log(2)), "loss": 2.0, "perplexity": math.exp(2.0)}
    assert scores.metrics == pytest.approx(expected)
    assert scores.metric == "bits_per_byte" and not scores.higher_is_better


def test_language_scores_of_the_text_leave_the_end_out() -> None:
    # Of 6 nats, 1 is for the ends of the two texts.
    sizes = np.array([4, 8]), np.array([1, 2]), np.array([1.5, 3.5])
    scores = language_scores(np.array([2.0, 4.0]), sizes[1], sizes[0], sizes[2])

    assert scores.metric == "bits_per_byte"
    assert scores.metrics["bits_per_byte_text"] == pytest.approx(5.0 / (12 * math.log(2)))
    assert scores.metrics["bits_per_byte"] == pytest.approx(6.0 / (12 * math.log(2)))
    with pytest.raises(ValueError, match="length of text_nats must be 2, got 1"):
        language_scores(np.array([2.0, 4.0]), sizes[1], sizes[0], np.ones(1))


def test_language_scores_of_a_uniform_byte_model_are_eight_bits() -> None:
    lengths = np.array([3, 10, 100])
    assert language_scores(lengths * math.log(256), lengths, lengths).value == pytest.approx(8.0)


def test_language_scores_keep_the_perplexity_finite() -> None:
    scores = language_scores(np.array([1e6]), np.array([1]), np.array([1]))
    assert math.isfinite(scores.metrics["perplexity"])
    json.dumps(scores.to_dict(), allow_nan=False)
