import numpy as np
import pandas as pd
import pytest

from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.slice_changes import SliceChange, sure_losses
from tunetrail.evaluation.slices import score_slices


def scores_of(values: np.ndarray) -> Scores:
    return Scores(
        metric="ndcg_at_10",
        metrics={"ndcg_at_10": float(values.mean())},
        per_example={"ndcg_at_10": values},
    )


@pytest.mark.parametrize(("loss", "losing"), [(0.0, []), (0.3, ["fr"])])
def test_sure_losses_are_slices_that_lost_whatever_the_others_gained(
    loss: float, losing: list[str]
) -> None:
    generator = np.random.default_rng(1)
    languages = np.array(["en", "fr", "de"] * 60)
    before = generator.uniform(0.4, 0.6, size=180)
    after = before + 0.05 + generator.normal(0.0, 0.05, size=180)
    after[languages == "fr"] -= loss
    attributes = pd.DataFrame({"language": languages}, dtype=object)

    slices = score_slices(scores_of(before), scores_of(after), attributes, confidence=0.95, seed=0)
    changes = sure_losses(slices)

    assert [change.value for change in changes] == losing
    for change in changes:
        assert change.lower < change.improvement < change.upper < 0.0
        assert SliceChange.from_dict(change.to_dict()) == change
        assert "on 60 rows with language 'fr'" in change.in_words
