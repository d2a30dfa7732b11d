"""Records a training in the stores: its end, and a model type's summary."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from tunetrail.errors import TunetrailError, UserError, state_after
from tunetrail.evaluation.comparison import Comparison
from tunetrail.evaluation.decision_text import decision_text
from tunetrail.reporting.readable import as_markdown
from tunetrail.stores.database.ledger import WAITING
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.tracking.run_tags import TEST_ROWS_TAG
from tunetrail.stores.tracking.tracker import TrackedRun

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def recorded(database: DatabaseManager, run_id: str) -> Iterator[None]:
    """Mark the database's training run as failed or interrupted if the block raises."""
    try:
        yield
    # BaseException: an interrupted training would stay `running` in the database forever.
    except BaseException as error:
        state, reason = state_after(error)
        try:
            database.update_training_run(run_id, state=state, reason=reason)
        except TunetrailError as second:
            # A note, so that a database that is down doesn't hide why the training failed.
            error.add_note(f"The training run {run_id} could not be marked as {state}: {second}")
        raise


@contextlib.contextmanager
def resumable(run_id: str) -> Iterator[None]:
    """Say how to resume a run if the block raises an error that another attempt may not meet.

    Args:
        run_id: The run in MLflow that is to be resumed: of a sweep's job, the sweep's.
    """
    try:
        yield
    except BaseException as error:
        # The user's mistake would fail the next attempt too: the advice would mislead.
        if not isinstance(error, UserError):
            logger.warning("`tunetrail resume %s` continues this run from where it stopped", run_id)
        raise


def summarize(run: TrackedRun, model_type: str, steps: Mapping[str, Mapping[str, Any]]) -> None:
    """Write to the pipeline's run what came of a model type, whose run may be below it."""
    figures = Comparison.from_dict(steps["comparison"]).figures
    run.log_metrics({f"{model_type}/{name}": value for name, value in figures.items()})
    run.set_tags({f"tunetrail.{model_type}.decision": steps["deployment"]["decision"]})
    family_run_id = steps["deployment"]["mlflow_run_id"]
    if family_run_id != run.run_id:
        run.link(family_run_id)
        # Steps of older runs have none.
        run.set_tags({f"{TEST_ROWS_TAG}.{model_type}": steps["comparison"].get("test_rows", "")})


def write_note(run: TrackedRun, steps: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    """Write the decision on each model type as the note of the pipeline's run.

    Args:
        run: The pipeline's run.
        steps: The results by step and model type.
    """
    paragraphs = []
    for model_type, deployment in steps["deployment"].items():
        comparison = steps["comparison"][model_type]
        text = decision_text(
            Comparison.from_dict(comparison),
            against=comparison["against"],
            promoted=deployment["promote"],
            reason=deployment["reason"],
            waiting=deployment.get("decision") == WAITING,
        )
        paragraphs.append(f"**{as_markdown(model_type)}**: {as_markdown(text)}")
    run.describe("\n\n".join(paragraphs))
