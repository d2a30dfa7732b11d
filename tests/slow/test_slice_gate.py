"""What `gate.maximum_slice_loss` refuses: equal models by chance, and models that lost on a slice."""

import numpy as np
import pandas as pd
import pytest

from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.slice_changes import sure_losses
from tunetrail.evaluation.slices import score_slices

ROWS, DEVIATION, SETS = 300, 0.12, 400
LANGUAGES = {"en": 0.5, "fr": 0.2, "de": 0.2, "es": 0.1}


def scores_of(values: np.ndarray) -> Scores:
    return Scores(
        metric="ndcg_at_10",
        metrics={"ndcg_at_10": float(values.mean())},
        per_example={"ndcg_at_10": values},
    )


def refused_share(
    margin: float, *, gain: float, loss: float, generator: np.random.Generator
) -> float:
    """Return how often a candidate is refused for a slice.

    Args:
        margin: `gate.maximum_slice_loss`.
        gain: The candidate's true gain on each row.
        loss: What it truly loses on French rows instead.
        generator: Draws the rows.
    """
    refused = 0
    for seed in range(SETS):
        languages = generator.choice(list(LANGUAGES), ROWS, p=list(LANGUAGES.values()))
        attributes = {
            "language": languages,
            "characters": generator.choice(["1", "2", "3", "4"], ROWS),
            "label": generator.choice(list("abcdefgh"), ROWS),
        }
        before = generator.uniform(0.3, 0.8, ROWS)
        change = generator.normal(gain, DEVIATION, ROWS)
        change[languages == "fr"] -= gain + loss
        slices = score_slices(
            scores_of(before),
            scores_of(before + change),
            pd.DataFrame(attributes, dtype=object),
            confidence=0.95,
            seed=seed,
        )
        refused += any(-slice_.improvement > margin for slice_ in sure_losses(slices))
    return refused / SETS


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("margin", "gain", "loss", "least", "most"),
    [
        # Equal models: at most 2.5 %, and three standard errors.
        (0.0, 0.0, 0.0, 0.0, 0.05),
        (0.02, 0.0, 0.0, 0.0, 0.05),
        # Better everywhere.
        (0.02, 0.02, -0.02, 0.0, 0.02),
        # Better, except that French has lost much more than the margin.
        (0.02, 0.02, 0.1, 0.9, 1.0),
    ],
)
def test_slices_refuse_equal_models_seldom_and_losses_mostly(
    margin: float, gain: float, loss: float, least: float, most: float
) -> None:
    share = refused_share(margin, gain=gain, loss=loss, generator=np.random.default_rng(0))
    print(f"margin {margin}, gain {gain}, loss on French {loss}: {share:.1%} refused")
    assert least <= share <= most
