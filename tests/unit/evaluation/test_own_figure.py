import dataclasses

import numpy as np
import pytest

from tunetrail.evaluation.looks import SKETCH_SIZE, are_new, rows_sketch
from tunetrail.evaluation.own_figure import own_figure
from tunetrail.evaluation.scores import Scores, scores_from


def texts_of(first: int, last: int) -> list[list[str]]:
    return [[f"question {row}"] for row in range(first, last)]


def lucky(rows: int, old: int) -> Scores:
    """A root that is better by luck on the rows that chose it."""
    values = np.where(np.arange(rows) < old, 0.9, 0.6)
    return scores_from({"ndcg_at_10": values}, "ndcg_at_10")


def test_figure_is_that_of_rows_that_did_not_choose() -> None:
    new_rows = are_new(texts_of(0, 60), rows_sketch(texts_of(0, 30)))

    figure = own_figure(lucky(60, 30), new_rows, needed=20)

    assert (figure.value, figure.rows, figure.clusters) == (pytest.approx(0.6), 30, 30)
    assert figure.in_words == (
        "has ndcg_at_10 0.6000 on the 30 test rows that came after its promotion"
    )


def test_there_is_none_with_too_few_new_rows() -> None:
    new_rows = are_new(texts_of(0, 60), rows_sketch(texts_of(0, 45)))

    figure = own_figure(lucky(60, 45), new_rows, needed=20)

    assert (figure.value, figure.rows) == (None, 15)
    assert "must be at least 20, and there are 15" in figure.in_words


def test_relatives_of_old_rows_are_old() -> None:
    # Each old row has a new one in its group.
    grouped = dataclasses.replace(lucky(60, 30), clusters=[str(row % 40) for row in range(60)])

    figure = own_figure(grouped, [row >= 30 for row in range(60)], needed=1)

    assert (figure.rows, figure.clusters) == (10, 10)


def test_a_full_sketch_counts_unknown_rows_as_old() -> None:
    old, new = texts_of(0, 3 * SKETCH_SIZE), texts_of(3 * SKETCH_SIZE, 6 * SKETCH_SIZE)
    sketch = rows_sketch(old)

    assert not any(are_new(old, sketch))
    # The sketch knows the lowest third of the hashes.
    assert sum(are_new(new, sketch)) == pytest.approx(SKETCH_SIZE, rel=0.15)
