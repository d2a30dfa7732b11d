"""Counts from the ledger how often the test rows of a training were asked before."""

from collections.abc import Callable, Sequence

from tunetrail.evaluation.looks import shared_share
from tunetrail.stores.ledger import PromotionRecord

CountLooks = Callable[[Sequence[str]], float]
"""Takes the sketch of a test side; returns how many looks at its rows came before."""


def no_looks(sketch: Sequence[str]) -> float:
    """Return 0: without a ledger, every look is the first."""
    return 0.0


def earlier_looks(
    promotions: Sequence[PromotionRecord],
    sketch: Sequence[str],
    session_id: str,
    mlflow_run_id: str | None = None,
) -> float:
    """Return how many looks at some test rows there were since root last moved.

    A look counts by the share of the rows that it had. With root, the question changes: candidates
    are compared with another model.

    Args:
        promotions: The ledger of the model, oldest decision first.
        sketch: The sketch of the test side.
        session_id: The session that the rows are from.
        mlflow_run_id: A run whose own decision doesn't count, as it is being made again.
    """
    looks = 0.0
    for record in promotions:
        if mlflow_run_id is not None and record.mlflow_run_id == mlflow_run_id:
            continue
        if record.decision == "promoted":
            looks = 0.0
        elif record.test_rows is None:
            # Decided before the ledger knew test rows, which follow mostly from the session.
            looks += record.session_id == session_id
        else:
            looks += shared_share(sketch, record.test_rows)
    return looks
