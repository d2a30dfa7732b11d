"""Find the run that an id means, and check that it can be resumed."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import Any

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tunetrail.config import TrackingConfig, check_identifier
from tunetrail.errors import TrackingError, UserError
from tunetrail.paths import is_missing_file
from tunetrail.stores.database.manager import DatabaseManager, RunState, TrainingRun
from tunetrail.stores.tracking.provenance import changed_versions
from tunetrail.stores.tracking.run_tags import FAMILY_TAG, OUTCOME_TAG, TRAINING_RUN_TAG
from tunetrail.stores.tracking.tracker import Tracker, shown_uri

CONFIGURATION = "config.json"
"""The artifact of a pipeline run with its settings."""
_DECIDED = ("promoted", "refused")
_ID_LENGTH = 32
_SHOWN_IDS = 3
_AGAIN = "Start it again with `tunetrail train`."


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRun:
    """The run of one model type: below a pipeline run, or the pipeline run itself."""

    run_id: str
    finished: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumableRun:
    """A pipeline run that ended without success.

    Attributes:
        training: The run in the database.
        run_id: The id of the run in MLflow.
        settings: The settings of the run as plain values, without the stores.
        model_runs: The runs of the model types that had begun: the pipeline run itself if it was
            asked for one model type, otherwise runs below it.
        changed_versions: A phrase for each library whose version has changed since.
    """

    training: TrainingRun
    run_id: str
    settings: Mapping[str, Any]
    model_runs: Mapping[str, ModelRun]
    changed_versions: tuple[str, ...]


def find_resumable_run(
    tracking: TrackingConfig, database: DatabaseManager, run_id: str, *, force: bool = False
) -> ResumableRun:
    """Find the pipeline run that an id means, and check that it can be resumed.

    Args:
        tracking: The MLflow store of the run.
        database: The database of its training run.
        run_id: The id of the pipeline run in MLflow, of a run below it, or of the training run in
            the database.
        force: Treat an unfinished run of another host as dead.

    Raises:
        UserError: There is no such run, it has succeeded, its process is alive, or its settings
            are missing.
    """
    tracker, run, training = _find_run(tracking, database, run_id)
    # Before its settings are read: of a run that is alive, they may not be there yet.
    _check_ended(run_id, training, force)
    return _recorded_run(tracker, run, training)


def find_recorded_run(
    tracking: TrackingConfig, database: DatabaseManager, run_id: str
) -> ResumableRun:
    """Find the pipeline run that an id means, whatever has become of it.

    Args:
        tracking: The MLflow store of the run.
        database: The database of its training run.
        run_id: As for `find_resumable_run`.

    Raises:
        UserError: There is no such run, or its settings are missing.
    """
    return _recorded_run(*_find_run(tracking, database, run_id))


def _find_run(
    tracking: TrackingConfig, database: DatabaseManager, run_id: str
) -> tuple[Tracker, Run, TrainingRun]:
    """Return the store, the pipeline run that an id means, and its training run."""
    check_identifier("RUN_ID", run_id)

    _check_store_exists(tracking)
    tracker = Tracker(tracking)
    run = _pipeline_run(tracker, database, run_id)
    training = database.training_run(run.data.tags[TRAINING_RUN_TAG])
    if training is None:
        raise UserError(
            f"the database {database.shown_url} has no record of the run {run_id}. "
            "Name the one that the run was started with, as in database.url=URL."
        )
    return tracker, run, training


def _recorded_run(tracker: Tracker, run: Run, training: TrainingRun) -> ResumableRun:
    return ResumableRun(
        training=training,
        run_id=run.info.run_id,
        settings=_settings(tracker, run.info.run_id),
        model_runs=_model_runs(tracker, run),
        changed_versions=tuple(changed_versions(run.data.tags)),
    )


def resumable_runs(
    tracking: TrackingConfig, database: DatabaseManager, *, most: int = 20
) -> list[ResumableRun]:
    """Return the newest runs that can be resumed, the newest first.

    Raises:
        UserError: The store doesn't exist.
    """
    _check_store_exists(tracking)
    # A killed process couldn't mark its run itself.
    database.mark_interrupted_runs()

    resumable: list[ResumableRun] = []
    for training in reversed(database.training_runs()):
        has_ended = training.state in (RunState.FAILED, RunState.INTERRUPTED)
        if not has_ended or training.mlflow_run_id is None or len(resumable) == most:
            continue
        # One whose run was deleted in MLflow, for example.
        with contextlib.suppress(UserError):
            run = find_resumable_run(tracking, database, training.mlflow_run_id)
            if _has_folders(run):
                resumable.append(run)
    return resumable


def _has_folders(run: ResumableRun) -> bool:
    """Tell whether what is needed to continue the run is still on this disk."""
    folder = Path(run.settings["output_dir"])
    unfinished = filterfalse(lambda model_run: model_run.finished, run.model_runs.values())
    return all((folder / model_run.run_id).is_dir() for model_run in unfinished)


def whole_run_id(tracking: TrackingConfig, database: DatabaseManager, beginning: str) -> str:
    """Return the id that begins with some characters; the characters if there is none.

    Raises:
        UserError: Several ids begin with them.
    """
    check_identifier("RUN_ID", beginning)
    # MLflow would make a file that is missing.
    if len(beginning) >= _ID_LENGTH or is_missing_file(tracking.uri):
        return beginning

    tracker = Tracker(tracking)
    with tracker.request():
        experiments = tracker.client.search_experiments()
        experiment_ids = [experiment.experiment_id for experiment in experiments]
        condition = f"attributes.run_id LIKE '{beginning}%'"
        runs = tracker.client.search_runs(experiment_ids, condition)
    run_ids = [run.info.run_id for run in runs]
    run_ids += [training.run_id for training in database.training_runs()]

    # Again, since an underscore is any character for LIKE.
    run_ids = sorted(filter(lambda run_id: run_id.startswith(beginning), run_ids))
    if len(run_ids) > 1:
        raise UserError(
            f"RUN_ID must be the beginning of one run's id, got {beginning!r}, with which "
            f"{len(run_ids)} ids begin. Give more of it: {', '.join(run_ids[:_SHOWN_IDS])}."
        )
    return run_ids[0] if run_ids else beginning


def finished_steps(
    tracker: Tracker, run_id: str, names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the results of the named steps of a model type's run that succeeded.

    Raises:
        UserError: The result of a step can't be read.
    """
    run = tracker.run(run_id)
    try:
        return {name: run.read_dict(f"steps/{name}.json") for name in names}
    except TrackingError as error:
        raise UserError(
            f"the results of the finished run {run_id} can't be read: {error} {_AGAIN}"
        ) from error


def _check_store_exists(tracking: TrackingConfig) -> None:
    # A Tracker would create the missing file.
    if is_missing_file(tracking.uri):
        raise UserError(
            f"tracking.uri must name a store with runs, got {tracking.uri}: there is no such file. "
            "Resume in the folder in which the run was started, or name its store."
        )


def _pipeline_run(tracker: Tracker, database: DatabaseManager, run_id: str) -> Run:
    """Return the run of a training by its id, by one below it, or by the id in the database."""
    run = tracker.find_run(run_id)
    if run is None:
        # Then the id may be the one in the database, which error messages name as well.
        training = database.training_run(run_id)
        if training is None:
            raise UserError(
                f"RUN_ID must be the id of a run, got {run_id!r}: neither "
                f"{shown_uri(tracker.config.uri)} nor {database.shown_url} has it. "
                "`tunetrail ui` shows the runs with their ids."
            )
        run = tracker.find_run(training.mlflow_run_id) if training.mlflow_run_id else None
        if run is None:
            raise UserError(
                f"the run {run_id} is no longer in MLflow, so it can't be resumed. {_AGAIN}"
            )

    # The id may be that of a model type's run or of a fold, which are below the pipeline run.
    while run is not None and TRAINING_RUN_TAG not in run.data.tags:
        parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
        run = tracker.find_run(parent) if parent else None
    if run is None:
        raise UserError(
            f"RUN_ID must be the id of a run of `tunetrail train`, got {run_id!r}. "
            "`tunetrail runs` lists them."
        )
    return run


def _model_runs(tracker: Tracker, run: Run) -> dict[str, ModelRun]:
    """Return the runs of the model types that had begun: the pipeline's own, or runs below it."""
    tags = run.data.tags
    if FAMILY_TAG in tags:
        finished = tags.get(OUTCOME_TAG) in _DECIDED
        return {tags[FAMILY_TAG]: ModelRun(run_id=run.info.run_id, finished=finished)}

    model_runs = {}
    for child in tracker.children(run.info.run_id):
        model_type = child.data.tags.get("tunetrail.model_type")
        if model_type is not None:
            # Runs of older versions that have ended have decided.
            has_decided = child.data.tags.get(OUTCOME_TAG, _DECIDED[0]) in _DECIDED
            finished = child.info.status == "FINISHED" and has_decided
            model_runs[model_type] = ModelRun(run_id=child.info.run_id, finished=finished)
    return model_runs


def _check_ended(run_id: str, training: TrainingRun, force: bool) -> None:
    if training.state == RunState.SUCCEEDED:
        raise UserError(f"the run {run_id} has succeeded: nothing is left to do.")
    if training.state == RunState.PRUNED:
        raise UserError(
            f"the run {run_id} was pruned by its sweep, which keeps no model of it. {_AGAIN}"
        )
    # A killed process couldn't mark its run, which says `running` until somebody looks.
    if training.state in (RunState.PENDING, RunState.RUNNING):
        training.process.check_ended(f"the run {run_id}", force=force)


def _settings(tracker: Tracker, run_id: str) -> dict[str, Any]:
    run = tracker.run(run_id)
    if CONFIGURATION not in run.artifacts():
        raise UserError(
            f"the run {run_id} ended before its configuration was stored, or was started by a "
            f"version of tunetrail that couldn't resume runs. {_AGAIN}"
        )
    try:
        return run.read_dict(CONFIGURATION)
    except TrackingError as error:
        raise UserError(
            f"the configuration of the run {run_id} can't be read: {error} {_AGAIN}"
        ) from error
