"""Reads from the ledger how often test rows were asked, and what is known of a version."""

from collections.abc import Callable, Sequence

from tunetrail.evaluation.looks import shared_share
from tunetrail.stores.database.ledger import PROMOTIONS, PromotionRecord

CountLooks = Callable[[Sequence[str]], float]
"""Takes the sketch of a test side; returns how many looks at its rows came before."""

ReadPromotionRows = Callable[[str], Sequence[str] | None]
"""Takes a version; returns the sketch of the test rows that it was promoted by, None if unknown."""


def no_looks(sketch: Sequence[str]) -> float:
    """Return 0: without a ledger, every look is the first."""
    return 0.0


def no_promotion_rows(version: str) -> Sequence[str] | None:
    """Return None: without a ledger, nothing is known of a promotion."""
    return None


def promotion_rows(promotions: Sequence[PromotionRecord], version: str) -> Sequence[str] | None:
    """Return the sketch of the test rows that a version was promoted by, None if unknown.

    Args:
        promotions: The ledger of the model.
        version: The version.
    """
    for record in reversed(promotions):
        if record.version == version and record.decision in PROMOTIONS:
            return record.test_rows
    return None


def recorded_digest(
    promotions: Sequence[PromotionRecord], version: str, mlflow_run_id: str
) -> str | None:
    """Return the digest of a version's files, None if unknown.

    Args:
        promotions: The ledger of the model.
        version: The version.
        mlflow_run_id: The run that registered it: after a move to another MLflow store, the ledger
            may know another version of the same number.
    """
    for record in reversed(promotions):
        if record.version == version and record.mlflow_run_id == mlflow_run_id and record.digest:
            return record.digest
    return None


def earlier_looks(
    promotions: Sequence[PromotionRecord],
    sketch: Sequence[str],
    session_ids: Sequence[str],
    mlflow_run_id: str | None = None,
) -> float:
    """Return how many looks at some test rows there were since root last moved.

    A look counts by the share of the rows that it had. With root, the question changes: candidates
    are compared with another model.

    Args:
        promotions: The ledger of the model, oldest decision first.
        sketch: The sketch of the test side.
        session_ids: The sessions that the rows are from.
        mlflow_run_id: A run whose own decision doesn't count, as it is being made again.
    """
    looks = 0.0
    for record in promotions:
        if mlflow_run_id is not None and record.mlflow_run_id == mlflow_run_id:
            continue
        if record.decision in PROMOTIONS:
            looks = 0.0
        elif record.test_rows is None:
            # Decided before the ledger knew test rows, which follow mostly from the session.
            looks += record.session_id in session_ids
        else:
            looks += shared_share(sketch, record.test_rows)
    return looks
