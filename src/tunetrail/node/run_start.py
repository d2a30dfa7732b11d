"""Starts a run in the database and in MLflow, and reopens one that ended early."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from tunetrail.config import AUTO, Settings, name_of_sessions
from tunetrail.config.checks import check
from tunetrail.deployment.export import check_model_dir
from tunetrail.node.dead_processes import (
    end_dead_tracked_runs,
    end_dead_training_runs,
    settle_roots,
)
from tunetrail.node.started_run import StartedRun, session_tags
from tunetrail.pipeline import DataSciencePipeline, open_tracker
from tunetrail.pipeline.families import requested_families
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.recording import recorded
from tunetrail.pipeline.requests import (
    check_sessions,
    read_general_files,
    summaries_of,
    trained_model_type,
)
from tunetrail.pipeline.run_names import run_name
from tunetrail.pipeline.trainer_checks import check_callbacks, check_devices
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.resumable_runs import ResumableRun
from tunetrail.stores.tracking.run_tags import TRAINING_RUN_TAG

logger = logging.getLogger(__name__)


def check_trainable(
    settings: Settings, database: DatabaseManager, session_ids: Sequence[str], model_type: str
) -> tuple[str, tuple[ModelFamily, ...]]:
    """Return the model type and the families of a request that can be trained.

    Raises:
        UserError: The sessions, the devices or the callbacks don't fit the request.
    """
    summaries = summaries_of(database, session_ids)
    model_type = trained_model_type(summaries, model_type)
    families = requested_families(model_type)
    check(
        len(families) == 1 or settings.gate.metric == AUTO,
        "gate.metric",
        f"{AUTO} for several model types, whose rows have no metric in common",
        settings.gate.metric,
        f"Train one of them, such as model_type={families[0].name}.",
    )
    check_sessions(settings, summaries, families)
    check_devices(settings, families)
    check_callbacks(settings, families)
    return model_type, families


@contextlib.contextmanager
def start_run(
    settings: Settings,
    database: DatabaseManager,
    session_ids: Sequence[str],
    model_type: str,
    *,
    name: str | None = None,
    changes: Sequence[str] | None = None,
    parent_run_id: str | None = None,
    started_by: str | None = None,
) -> Iterator[StartedRun]:
    """Check a request, and yield its run, which both stores know.

    If the block raises, the run is marked as failed or interrupted.

    Args:
        settings: What is trained and how.
        database: The database that holds the sessions.
        session_ids: The sessions to train on.
        model_type: The name of a family, or `all`.
        name: Name of the run in MLflow; None for the session, the models and the settings that
            differ from the defaults.
        changes: What was changed, in words, to be named instead of these settings.
        parent_run_id: The run in MLflow that it belongs to.
        started_by: What has started the training; None for a person.

    Raises:
        UserError: The request can't be trained; nothing was recorded.
    """
    model_type, families = check_trainable(settings, database, session_ids, model_type)
    _check_model_dir(settings, families)
    general_files = read_general_files(settings, families)

    # From here on, whatever goes wrong is recorded with the run.
    end_dead_training_runs(database)
    training_run_id = database.create_training_run(session_ids, model_type, started_by)
    with recorded(database, training_run_id):
        tracker = open_tracker(settings)
        end_dead_tracked_runs(settings, tracker)
        settle_roots(settings, tracker, database, families)
        run = tracker.start_run(
            name or run_name(settings, name_of_sessions(session_ids), families, changes),
            parent_run_id=parent_run_id,
            tags={
                **session_tags(session_ids),
                **({"tunetrail.started_by": started_by} if started_by else {}),
                TRAINING_RUN_TAG: training_run_id,
                "tunetrail.model_type": model_type,
            },
        )
        database.update_training_run(training_run_id, state="running", mlflow_run_id=run.run_id)

        yield StartedRun(
            run=run,
            training_run_id=training_run_id,
            session_ids=session_ids,
            model_type=model_type,
            general_files=general_files,
        )


@contextlib.contextmanager
def reopen_run(
    settings: Settings,
    database: DatabaseManager,
    resumable_run: ResumableRun,
    selection: str | None = None,
) -> Iterator[StartedRun]:
    """Yield a run that ended early, marked as running again in both stores.

    If the block raises, the run is marked as failed or interrupted.

    Args:
        settings: The settings that the run began with.
        database: The database that holds its sessions.
        resumable_run: The run.
        selection: How the run was chosen among several, for the decision's sentence.

    Raises:
        UserError: Its sessions or its files are gone; the run is left as it was.
    """
    training_run = resumable_run.training
    summaries = summaries_of(database, training_run.session_ids)
    families = requested_families(training_run.model_type)
    check_sessions(settings, summaries, families)
    _check_model_dir(settings, families)

    # Files that are gone or broken have to fail before the run is marked as running again.
    tracker = open_tracker(settings)
    pipeline = DataSciencePipeline(settings, tracker=tracker)
    for model_run in resumable_run.model_runs.values():
        if not model_run.finished:
            pipeline.run_state(model_run.run_id)

    database.reopen_training_run(training_run)
    with recorded(database, training_run.run_id):
        end_dead_tracked_runs(settings, tracker)
        settle_roots(settings, tracker, database, families)
        if resumable_run.changed_versions:
            logger.warning(
                "the run was started with other package versions: %s",
                ", ".join(resumable_run.changed_versions),
            )
        run = tracker.run(resumable_run.run_id)
        run.reopen()

        yield StartedRun(
            run=run,
            training_run_id=training_run.run_id,
            session_ids=training_run.session_ids,
            model_type=training_run.model_type,
            model_runs=resumable_run.model_runs,
            selection=selection,
        )


def _check_model_dir(settings: Settings, families: Sequence[ModelFamily]) -> None:
    """Raise `ConfigError` if a root could not be exported, before hours are spent on one."""
    names = [settings.tracking.registered_name(family.name) for family in families]
    check_model_dir(Path(settings.model_dir), names)
