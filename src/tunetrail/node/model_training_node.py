"""ModelTrainingNode: sessions in, a better root model out, and every failure recorded."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunetrail.collecting import collect
from tunetrail.config import plain_session_ids
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.hooks import telling_hook
from tunetrail.node.family_training import FamilyTraining
from tunetrail.node.node_config import NodeConfig
from tunetrail.node.old_versions import delete_old_versions
from tunetrail.node.planning import plan_sessions
from tunetrail.node.preparation import prepare_request
from tunetrail.node.run_start import check_trainable, reopen_run, start_run
from tunetrail.node.started_run import StartedRun, selection_by_hand
from tunetrail.pipeline import Outcome
from tunetrail.pipeline.environment import log_environment
from tunetrail.pipeline.pins import Pins
from tunetrail.pipeline.planning.run_plan import RunPlan
from tunetrail.pipeline.recording import write_note
from tunetrail.pipeline.requests import (
    checked_request,
    read_general_files,
    single_family,
    summaries_of,
)
from tunetrail.pipeline.run_settings import params_of, plain_settings, settings_of
from tunetrail.pipeline.stages.fit import ValidationSink, ignore_validation
from tunetrail.pipeline.training_result import TrainingResult
from tunetrail.plain_values import plain_moment
from tunetrail.run_reports import try_to_log_report
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.resumable_runs import (
    CONFIGURATION,
    ResumableRun,
    find_resumable_run,
)
from tunetrail.stores.tracking.run_tags import SWEEP_JOB_TAG
from tunetrail.stores.tracking.tracker import TrackedRun
from tunetrail.verbosity import saying


def ignore_start(run_id: str) -> None:
    """Take the id of a run and forget it."""


class ModelTrainingNode:
    """Trains the models of a session's samples and promotes them if they are measurably better.

    Args:
        config: What is trained and how.
        db_manager: The database that holds the session.
        parent_run_id: An MLflow run to put the pipeline's run under, for example that of a sweep.
        run_name: Name of the pipeline's run in MLflow; None for the session, the models and the
            settings that differ from the defaults.
        changes: What was changed, in words, for the run's name, such as `["quick", "seed=7"]`; None
            for the settings that differ from the defaults.
        started_by: What has started the training, for the database and the run's tag
            `tunetrail.started_by`; None for a person.
        verbose: How much is said meanwhile: 0 for warnings, 1 for lines and progress bars, 2 for
            what libraries say as well; None for $TUNETRAIL_VERBOSE, or else 1. If the application
            has configured logging, its handlers take the lines.

    Attributes:
        report: Where the report of the last run is, a path or an address; None before it.
        page: The address of the last run in MLflow's pages; None before it.
    """

    def __init__(
        self,
        config: NodeConfig,
        db_manager: DatabaseManager,
        *,
        parent_run_id: str | None = None,
        run_name: str | None = None,
        changes: Sequence[str] | None = None,
        started_by: str | None = None,
        verbose: int | None = None,
    ) -> None:
        self.config = config
        self.settings = config.settings
        self.db_manager = db_manager
        self.parent_run_id = parent_run_id
        self.run_name = run_name
        self.changes = changes
        self.started_by = started_by
        self.verbose = verbose
        self.report: str | None = None
        self.page: str | None = None

    def execute(self, request: Mapping[str, Any]) -> TrainingResult:
        """Train on one session, or on several together.

        Args:
            request: `session_id`, an id or a list of ids, and `model_type`: the name of a family
                such as `embedding` or `llm`, or `all` (the default).

        Returns:
            What came of each model type. It is also the mapping that docs/python.md documents:
            `result["results"]["steps"]` holds each step's report by model type.

        Raises:
            UserError: The request, the session or its samples can't be trained on.
            TunetrailError: Something failed; the run is marked as failed with the reason, in MLflow
                and in the database.
        """
        session_ids, model_type = checked_request(request)
        for session_id in session_ids:
            collect(self.db_manager, session_id)
        with (
            saying(self.verbose),
            telling_hook(self.db_manager),
            self._started(session_ids, model_type) as started,
        ):
            return self._complete(started)

    def fit(
        self,
        request: Mapping[str, Any],
        *,
        on_start: Callable[[str], None] = ignore_start,
        on_validation: ValidationSink = ignore_validation,
        pins: Pins | None = None,
    ) -> Outcome:
        """Train one model and score it on the validation rows, as a job of a sweep does.

        The test rows aren't scored, and nothing is registered. The run keeps its folder, so that
        `resume` can go on with the evaluation and the deployment.

        Args:
            request: As for `execute`; `all` stands for the only family with samples in the session.
            on_start: Receives the run's id in MLflow before anything is trained.
            on_validation: Receives the monitored value of each validation; may raise `Pruned` to
                end the run.
            pins: The samples and the root that the training begins with, whatever has come since;
                None for the present ones.

        Returns:
            The outcome, in the state `fitted` or `pruned`.

        Raises:
            UserError: The request, the session or its samples can't be trained on.
            TunetrailError: Something failed; the run is marked as failed with the reason.
        """
        session_ids, model_type = checked_request(request)
        # What was logged meanwhile isn't among the pinned samples, or would take some of them back.
        for session_id in session_ids if pins is None else ():
            collect(self.db_manager, session_id)
        family = single_family(summaries_of(self.db_manager, session_ids), model_type)

        with (
            saying(self.verbose),
            telling_hook(self.db_manager),
            self._started(session_ids, family.name) as started,
        ):
            on_start(started.run.run_id)
            return self._complete_fit(started, on_validation, pins)

    def _started(
        self, session_ids: Sequence[str], model_type: str
    ) -> AbstractContextManager[StartedRun]:
        """Return a context with the run of a request, started as this node was told to."""
        return start_run(
            self.settings,
            self.db_manager,
            session_ids,
            model_type,
            name=self.run_name,
            changes=self.changes,
            parent_run_id=self.parent_run_id,
            started_by=self.started_by,
        )

    def resume(
        self,
        run_id: str,
        *,
        force: bool = False,
        selection: str | None = None,
        model_dir: str | None = None,
    ) -> TrainingResult:
        """Continue a run that failed, was stopped or was killed, as if it had never ended.

        The run keeps the settings that it began with; this node's settings only say where runs are
        tracked.

        Args:
            run_id: The run's id in MLflow, or the id of a run below it, or of the training run in
                the database.
            force: Take a run that was not ended on another host for dead.
            selection: How the run was chosen among the jobs of its sweep, for the decision's
                sentence.
            model_dir: Another folder for the exported root models, on which nothing that is learnt
                depends; None for the run's own.

        Returns:
            The results that `execute` would have returned.

        Raises:
            UserError: There is no such run, it has succeeded or is alive, or its files are gone or
                broken.
            TunetrailError: Something failed; the run is marked as failed with the reason.
        """
        with saying(self.verbose), telling_hook(self.db_manager):
            node, resumable_run = self._reopened(run_id, force, model_dir)
            selection = selection or selection_by_hand(node.settings, resumable_run)
            with reopen_run(node.settings, self.db_manager, resumable_run, selection) as started:
                results = node._complete(started)
        self.report, self.page = node.report, node.page
        return results

    def resume_fit(
        self,
        run_id: str,
        *,
        force: bool = False,
        on_validation: ValidationSink = ignore_validation,
        pins: Pins | None = None,
    ) -> Outcome:
        """Continue a run of `fit` that was stopped or killed, as if it had never ended.

        Args:
            run_id: The run's id in MLflow.
            force: Take a run that was not ended on another host for dead.
            on_validation: As for `fit`.
            pins: As for `fit`; for a run that was stopped before it had read its rows.

        Raises:
            UserError: As for `resume`.
            TunetrailError: Something failed; the run is marked as failed with the reason.
        """
        node, resumable_run = self._reopened(run_id, force)
        with (
            saying(self.verbose),
            telling_hook(self.db_manager),
            reopen_run(node.settings, self.db_manager, resumable_run) as started,
        ):
            return node._complete_fit(started, on_validation, pins)

    def _reopened(
        self, run_id: str, force: bool, model_dir: str | None = None
    ) -> tuple["ModelTrainingNode", ResumableRun]:
        """Return a run that can be resumed, and a node with the settings that it began with."""
        resumable_run = find_resumable_run(
            self.settings.tracking, self.db_manager, run_id, force=force
        )
        # Other settings would make another run of it, with results that nothing can reproduce.
        settings = settings_of(resumable_run.settings, self.settings.tracking)
        if model_dir is not None:
            settings = replace(settings, model_dir=model_dir)
        return ModelTrainingNode(NodeConfig(settings=settings), self.db_manager), resumable_run

    def prepare(self, request: Mapping[str, Any], folder: Path) -> PreparedSession:
        """Validate, clean and split a session's rows into files; nothing is trained or recorded.

        Args:
            request: `session_id`, and `model_type`: the name of a family, or `all` for the families
                that the session has samples for.
            folder: Made if it isn't there; an earlier preparation in it is replaced. See
                `PreparedSession.folder`.

        Raises:
            UserError: The request or the session can't be prepared.
        """
        return prepare_request(self.settings, self.db_manager, request, folder, self.verbose)

    def plan(self, request: Mapping[str, Any], *, start_seconds: float = 0.0) -> RunPlan:
        """Return what a training will take, before it is paid for: rows, steps, time, memory, disk.

        A few steps of the real model on real rows are timed. Nothing is recorded; what is prepared
        stays in the cache, where the training finds it.

        Args:
            request: As for `execute`.
            start_seconds: What a training takes until it has imported its libraries; 0 if it will
                run in this process.

        Raises:
            UserError: The request, the session or its samples can't be trained on.
            TrainingError: The model or the machine isn't up to the training.
        """
        session_ids, model_type = checked_request(request)
        with saying(self.verbose):
            _, families = check_trainable(self.settings, self.db_manager, session_ids, model_type)
            read_general_files(self.settings, families)
            return plan_sessions(
                self.settings, self.db_manager, session_ids, families, start_seconds
            )

    def _complete(self, started: StartedRun) -> TrainingResult:
        """Train what isn't finished, and return and store the results of the run."""
        with started.run.finish_on_exit():
            if not started.run.resumed:
                self._log_settings(started.run)
            steps = self._family_training(started).train_all()

            identity = {
                "session_id": plain_session_ids(started.session_ids),
                "model_type": started.model_type,
                "timestamp": plain_moment(datetime.datetime.now(datetime.UTC)),
            }
            results = {**identity, "results": {**identity, "steps": steps}}
            started.run.log_dict(results, "results.json")
            write_note(started.run, steps)
            self.report = try_to_log_report(started.run)
            self.page = started.run.page()

        # Last, so that the database never says more than MLflow.
        self.db_manager.update_training_run(
            started.training_run_id, state="succeeded", result=results
        )
        delete_old_versions(self.settings, self.db_manager, started.run.tracker, started.model_type)
        return TrainingResult(
            results, run_id=started.run.run_id, report=self.report, page=self.page
        )

    def _complete_fit(
        self, started: StartedRun, on_validation: ValidationSink, pins: Pins | None
    ) -> Outcome:
        """Train the only family of the run until its fit, and store how the run ended."""
        run = started.run
        with run.finish_on_exit():
            if not run.resumed:
                self._log_settings(run)
            training = self._family_training(started, pins)
            (family,) = training.families
            outcome = training.train(family, until="fit", on_validation=on_validation)

        self.db_manager.update_training_run(
            started.training_run_id, state=str(outcome.state), reason=outcome.reason
        )
        return outcome

    def _family_training(self, started: StartedRun, pins: Pins | None = None) -> FamilyTraining:
        return FamilyTraining(
            settings=self.settings, database=self.db_manager, started=started, pins=pins
        )

    def _log_settings(self, run: TrackedRun) -> None:
        settings = plain_settings(self.settings, self.db_manager.shown_url)
        run.log_dict(settings, "config.yaml")
        run.log_dict(settings, CONFIGURATION)
        run.log_params(params_of(settings))
        if self.settings.sweep.job is not None:
            run.set_tags({SWEEP_JOB_TAG: self.settings.sweep.job})
        log_environment(run)
