import dataclasses

import numpy as np
import pytest

from tunetrail.evaluation.language_scores import language_scores
from tunetrail.evaluation.room import lack_of_room
from tunetrail.evaluation.scores import Scores, scores_from


def ranked(values: list[float]) -> Scores:
    return scores_from({"ndcg_at_10": np.array(values)}, "ndcg_at_10")


def test_thirty_of_thirty_leave_no_room() -> None:
    assert lack_of_room(ranked([1.0] * 30), 0.95) == (
        "already has the best ndcg_at_10 on 30 of 30 test rows: "
        "0 can improve, and a 95% interval needs 6"
    )


def test_six_rows_that_can_improve_are_room() -> None:
    assert lack_of_room(ranked([1.0] * 25 + [0.5] * 5), 0.95) is not None
    assert lack_of_room(ranked([1.0] * 24 + [0.5] * 6), 0.95) is None
    # A later look asks for more.
    assert "needs 9" in str(lack_of_room(ranked([1.0] * 24 + [0.5] * 6), 1.0 - 0.05 / 7))


def test_rows_of_one_group_can_improve_once() -> None:
    grouped = dataclasses.replace(
        ranked([1.0] * 24 + [0.5] * 6), clusters=[str(row // 2) for row in range(30)]
    )
    reason = str(lack_of_room(grouped, 0.95))
    assert "on 12 of 15 test groups: 3 can improve" in reason


def test_metrics_without_values_per_row_or_without_a_best_value() -> None:
    gold = np.arange(20.0)
    perfect = scores_from({"cosine": gold / 20.0, "gold": gold}, "spearman")
    good = scores_from({"cosine": np.roll(gold, 1) / 20.0, "gold": gold}, "spearman")
    language = language_scores(np.ones(20), np.ones(20), np.ones(20))

    assert lack_of_room(perfect, 0.95) == "already has the best spearman, 1"
    assert lack_of_room(good, 0.95) is None
    assert lack_of_room(language, 0.95) is None


@pytest.mark.parametrize("rounding", [-1e-7, 1e-7])
def test_rounding_is_no_room(rounding: float) -> None:
    assert lack_of_room(ranked([1.0 + rounding] * 30), 0.95) is not None
