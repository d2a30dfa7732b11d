"""ModelTrainingNode: one session in, a better root model out, and every failure recorded."""

import datetime
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from tunetrail.config import Settings, check_identifier
from tunetrail.data.flow.prepared import PreparedSession, claim_folder
from tunetrail.data.report.session_report import join_sessions
from tunetrail.deployment.export import check_model_dir
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.deployment.root_moves import RootMoves
from tunetrail.errors import ModelError, UserError
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.pipeline import (
    STAGES,
    STEPS,
    DataSciencePipeline,
    Outcome,
    open_tracker,
    remove_leftovers,
)
from tunetrail.pipeline.benchmark import Benchmark
from tunetrail.pipeline.families import ALL_FAMILIES, ModelFamily, requested_families
from tunetrail.pipeline.general_file import GeneralFile
from tunetrail.pipeline.lineage import Lineage
from tunetrail.pipeline.looks import earlier_looks, promotion_rows, recorded_digest
from tunetrail.pipeline.recording import (
    recorded,
    resumable,
    summarize,
    write_note,
)
from tunetrail.pipeline.requests import (
    check_callbacks,
    check_devices,
    check_samples,
    checked_request,
    read_general_files,
    single_family,
)
from tunetrail.pipeline.run_names import run_name
from tunetrail.pipeline.run_settings import leaves, plain_settings, settings_of
from tunetrail.pipeline.session_rows import previous_rows, training_frames
from tunetrail.pipeline.stage_context import RunLedger
from tunetrail.pipeline.stages.fit import ValidationSink, ignore_validation
from tunetrail.run_reports import try_to_log_report
from tunetrail.scratch import sweep
from tunetrail.stores.database import DatabaseManager, RunState
from tunetrail.stores.provenance import git_tags, version_tags
from tunetrail.stores.resumable_runs import (
    CONFIGURATION,
    TRAINING_RUN_TAG,
    ModelRun,
    ResumableRun,
    find_resumable_run,
    finished_steps,
)
from tunetrail.stores.tracking import TrackedRun, Tracker

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


def ignore_start(run_id: str) -> None:
    """Take the id of a run and forget it."""


@dataclass(kw_only=True)
class NodeConfig:
    """What a ModelTrainingNode trains, with what, and where the result goes.

    Raises:
        ConfigError: A key is unknown (the message names the nearest known one), or a value has the
            wrong type or is out of range.
    """

    model_dir: str | None = None
    """Folder of the exported root models; None for `settings.model_dir`."""

    embedding_model: str | None = None
    """Short name, hub id or folder; None for `settings.embedding.model`."""

    llm_model: str | None = None
    """Short name, hub id or folder; None for `settings.llm.model`."""

    pipeline_config: Mapping[str, Any] | None = None
    """The specification's dict: `output_dir`, `n_splits`, `random_state`, `models_root_dir`."""

    training_config: Mapping[str, Mapping[str, Any]] | None = None
    """The specification's dict of hyper-parameters for `embedding` and `llm`."""

    settings: Settings = field(default_factory=Settings)
    """Everything else; after construction, with all of the above applied."""

    def __post_init__(self) -> None:
        settings = self.settings.with_specification(self.pipeline_config, self.training_config)

        # The settings are replaced, not changed: the caller may use them for another node.
        if self.model_dir is not None:
            settings = replace(settings, model_dir=str(self.model_dir))
        if self.embedding_model is not None:
            embedding = replace(settings.embedding, model=self.embedding_model)
            settings = replace(settings, embedding=embedding)
        if self.llm_model is not None:
            settings = replace(settings, llm=replace(settings.llm, model=self.llm_model))

        self.settings = settings


@dataclass(frozen=True, kw_only=True)
class _StartedRun:
    """A pipeline run that has been started or reopened.

    Attributes:
        run: The run in MLflow.
        training_run_id: The id of the training run in the database.
        session_id: The session that it trains on.
        model_type: The model type of the request.
        model_runs: The families' runs by family, if it is resumed.
        general_files: The general file as each family reads it, by the family's name; nothing if
            it is resumed.
        selection: How the run was chosen among several, for the decision's sentence.
    """

    run: TrackedRun
    training_run_id: str
    session_id: str
    model_type: str
    model_runs: Mapping[str, ModelRun] = field(default_factory=dict)
    general_files: Mapping[str, GeneralFile | None] = field(default_factory=dict)
    selection: str | None = None

    def is_finished(self, family: ModelFamily) -> bool:
        """Tell whether an earlier attempt has finished the family's run."""
        return family.name in self.model_runs and self.model_runs[family.name].finished

    def shares_run(self, family: ModelFamily) -> bool:
        """Tell whether the family's metrics belong to this run, next to the parameters.

        They do if no other family is asked for. Older versions started a run below it.
        """
        model_run = self.model_runs.get(family.name)
        has_child = model_run is not None and model_run.run_id != self.run.run_id
        return self.model_type == family.name and not has_child


class ModelTrainingNode:
    """Trains the models of a session's samples and promotes them if they are measurably better.

    Args:
        config: What is trained and how.
        db_manager: The database that holds the session.
        parent_run_id: An MLflow run to put the pipeline's run under, for example that of a sweep.
        run_name: Name of the pipeline's run in MLflow; None for the session, the models and the
            settings that differ from the defaults.

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
    ) -> None:
        self.config = config
        self.settings = config.settings
        self.db_manager = db_manager
        self.parent_run_id = parent_run_id
        self.run_name = run_name
        self.report: str | None = None
        self.page: str | None = None

    def execute(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Train on one session.

        Args:
            request: `session_id`, and `model_type`: the name of a family such as `embedding` or
                `llm`, or `all` (the default).

        Returns:
            The specification's "Training Results", JSON-serialisable. Each step holds one entry per
            model type.

        Raises:
            UserError: The request, the session or its samples can't be trained on.
            TunetrailError: Something failed; the run is marked as failed with the reason, in MLflow
                and in the database.
        """
        session_id, model_type = checked_request(request)
        return self._start(session_id, model_type, self._complete)

    def fit(
        self,
        request: Mapping[str, Any],
        *,
        on_start: Callable[[str], None] = ignore_start,
        on_validation: ValidationSink = ignore_validation,
    ) -> Outcome:
        """Train one model and score it on the validation rows, as a job of a sweep does.

        The test rows aren't scored, and nothing is registered. The run keeps its folder, so that
        `resume` can go on with the evaluation and the deployment.

        Args:
            request: As for `execute`; `all` stands for the only family with samples in the session.
            on_start: Receives the run's id in MLflow before anything is trained.
            on_validation: Receives the monitored value of each validation; may raise `Pruned` to
                end the run.

        Returns:
            The outcome, in the state `fitted` or `pruned`.

        Raises:
            UserError: The request, the session or its samples can't be trained on.
            TunetrailError: Something failed; the run is marked as failed with the reason.
        """
        session_id, model_type = checked_request(request)
        family = single_family(self.db_manager.session_summary(session_id), model_type)

        def complete(started: _StartedRun) -> Outcome:
            on_start(started.run.run_id)
            return self._complete_fit(started, on_validation)

        return self._start(session_id, family.name, complete)

    def _start(
        self, session_id: str, model_type: str, complete: Callable[[_StartedRun], _Result]
    ) -> _Result:
        """Check a request, start its run in both stores, and complete it."""
        summary = self.db_manager.session_summary(session_id)
        families = requested_families(model_type)
        check_samples(summary, families)
        check_devices(self.settings, families)
        check_callbacks(self.settings, families)
        self._check_model_dir(families)
        general_files = read_general_files(self.settings, families)

        # From here on, whatever goes wrong is recorded with the run.
        self._mark_interrupted_in_database()
        training_run_id = self.db_manager.create_training_run(session_id, model_type)
        with recorded(self.db_manager, training_run_id):
            tracker = open_tracker(self.settings)
            self._mark_interrupted_in_tracking(tracker)
            self._settle_roots(tracker, families)
            run = tracker.start_run(
                self.run_name or run_name(self.settings, session_id, families),
                parent_run_id=self.parent_run_id,
                tags={
                    **self._tags(session_id),
                    TRAINING_RUN_TAG: training_run_id,
                    "tunetrail.model_type": model_type,
                },
            )
            self.db_manager.update_training_run(
                training_run_id, state="running", mlflow_run_id=run.run_id
            )

            return complete(
                _StartedRun(
                    run=run,
                    training_run_id=training_run_id,
                    session_id=session_id,
                    model_type=model_type,
                    general_files=general_files,
                )
            )

    def resume(
        self,
        run_id: str,
        *,
        force: bool = False,
        selection: str | None = None,
        model_dir: str | None = None,
    ) -> dict[str, Any]:
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
        node, resumable_run = self._reopened(run_id, force, model_dir)
        selection = selection or _selection_by_hand(node.settings, resumable_run)
        results = node._continue(resumable_run, node._complete, selection)
        self.report, self.page = node.report, node.page
        return results

    def resume_fit(
        self,
        run_id: str,
        *,
        force: bool = False,
        on_validation: ValidationSink = ignore_validation,
    ) -> Outcome:
        """Continue a run of `fit` that was stopped or killed, as if it had never ended.

        Args:
            run_id: The run's id in MLflow.
            force: Take a run that was not ended on another host for dead.
            on_validation: As for `fit`.

        Raises:
            UserError: As for `resume`.
            TunetrailError: Something failed; the run is marked as failed with the reason.
        """
        node, resumable_run = self._reopened(run_id, force)

        def complete(started: _StartedRun) -> Outcome:
            return node._complete_fit(started, on_validation)

        return node._continue(resumable_run, complete)

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

    def _continue(
        self,
        resumable_run: ResumableRun,
        complete: Callable[[_StartedRun], _Result],
        selection: str | None = None,
    ) -> _Result:
        training_run = resumable_run.training
        summary = self.db_manager.session_summary(training_run.session_id)
        families = requested_families(training_run.model_type)
        check_samples(summary, families)
        self._check_model_dir(families)

        # Files that are gone or broken have to fail before the run is marked as running again.
        tracker = open_tracker(self.settings)
        pipeline = DataSciencePipeline(self.settings, tracker=tracker)
        for model_run in resumable_run.model_runs.values():
            if not model_run.finished:
                pipeline.run_state(model_run.run_id)

        self.db_manager.reopen_training_run(training_run)
        with recorded(self.db_manager, training_run.run_id):
            self._mark_interrupted_in_tracking(tracker)
            self._settle_roots(tracker, families)
            if resumable_run.changed_versions:
                logger.warning(
                    "the run was started with other package versions: %s",
                    ", ".join(resumable_run.changed_versions),
                )
            run = tracker.run(resumable_run.run_id)
            run.reopen()

            return complete(
                _StartedRun(
                    run=run,
                    training_run_id=training_run.run_id,
                    session_id=training_run.session_id,
                    model_type=training_run.model_type,
                    model_runs=resumable_run.model_runs,
                    selection=selection,
                )
            )

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
        session_id, model_type = checked_request(request)
        summary = self.db_manager.session_summary(session_id)
        # Nothing is trained, so `all` needs no samples of every family, unlike in `execute`.
        families = requested_families(model_type)
        if model_type == ALL_FAMILIES:
            with_samples = tuple(filter(lambda family: summary.samples.get(family.kind), families))
            families = with_samples or families
        check_samples(summary, families)

        claim_folder(folder)
        # The families write into a scratch folder first: `folder` gets all of them or none.
        pipeline = DataSciencePipeline(self.settings)
        sessions, max_lengths = {}, {}
        with tempfile.TemporaryDirectory(dir=folder, prefix=".parts-") as scratch:
            for family in families:
                sessions[family.name] = pipeline.prepare(
                    family.name,
                    training_frames(self.db_manager, session_id, family, self.settings),
                    Path(scratch) / family.name,
                    reference=previous_rows(self.db_manager, session_id, family, self.settings),
                    base=self._base_model_if_found(family),
                )
                max_lengths[family.name] = family.section(self.settings).max_length

            return join_sessions(sessions, folder, session_id, max_lengths)

    def _complete(self, started: _StartedRun) -> dict[str, Any]:
        """Train what isn't finished, and return and store the results of the run."""
        with started.run.finish_on_exit():
            if not started.run.resumed:
                self._log_settings(started.run)
            steps = self._train_families(started)

            identity = {
                "session_id": started.session_id,
                "model_type": started.model_type,
                "timestamp": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
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
        return results

    def _complete_fit(self, started: _StartedRun, on_validation: ValidationSink) -> Outcome:
        """Train the only family of the run until its fit, and store how the run ended."""
        run = started.run
        with run.finish_on_exit():
            if not run.resumed:
                self._log_settings(run)
            (family,) = requested_families(started.model_type)
            pipeline = DataSciencePipeline(self.settings, tracker=run.tracker)
            outcome = self._train(
                family, pipeline, started, until="fit", on_validation=on_validation
            )

        self.db_manager.update_training_run(
            started.training_run_id, state=str(outcome.state), reason=outcome.reason
        )
        return outcome

    def _train_families(self, started: _StartedRun) -> dict[str, dict[str, Any]]:
        """Train the families that aren't finished, and return the results by step and family."""
        run = started.run
        families = requested_families(started.model_type)
        pipeline = DataSciencePipeline(self.settings, tracker=run.tracker)

        # A wrong name of a base model has to fail before the first family is trained.
        for family in families:
            if not started.is_finished(family):
                family.resolve_base(self.settings)

        steps: dict[str, dict[str, Any]] = {}
        for family in families:
            if started.is_finished(family):
                run_id = started.model_runs[family.name].run_id
                results = finished_steps(run.tracker, run_id, STEPS)
            else:
                with resumable(self.settings.sweep.run_id or run.run_id):
                    results = self._train(family, pipeline, started).to_dict()
            # After each family: a later one may fail, and this one's root has moved.
            summarize(run, family.name, results)
            for step, result in results.items():
                steps.setdefault(step, {})[family.name] = result
        return steps

    def _train(
        self,
        family: ModelFamily,
        pipeline: DataSciencePipeline,
        started: _StartedRun,
        *,
        until: str = STAGES[-1],
        on_validation: ValidationSink = ignore_validation,
    ) -> Outcome:
        session_id = started.session_id
        interrupted = started.model_runs.get(family.name)
        shares_run = started.shares_run(family)
        tracking = self.settings.tracking
        name_of_root = tracking.registered_name(family.name)

        def count_looks(sketch: Sequence[str]) -> float:
            run_id = interrupted.run_id if interrupted else None
            promotions = self.db_manager.promotions(name_of_root)
            return earlier_looks(promotions, sketch, session_id, run_id)

        def read_promotion_rows(version: str) -> Sequence[str] | None:
            return promotion_rows(self.db_manager.promotions(name_of_root), version)

        def read_digest(version: str, run_id: str) -> str | None:
            return recorded_digest(self.db_manager.promotions(name_of_root), version, run_id)

        return pipeline.run(
            family.name,
            training_frames(self.db_manager, session_id, family, self.settings),
            name=session_id,
            parent=None if shares_run else started.run,
            tags=self._tags(session_id),
            reference=previous_rows(self.db_manager, session_id, family, self.settings),
            on_validation=on_validation,
            count_looks=count_looks,
            lineage=Lineage(database=self.db_manager, family=family, prefix=tracking.prefix),
            read_own_columns=self.db_manager.read_own_columns,
            benchmark=Benchmark(
                database=self.db_manager,
                family=family,
                session_id=session_id,
                prefix=tracking.prefix,
            ),
            general_file=started.general_files.get(family.name),
            read_promotion_rows=read_promotion_rows,
            selection=started.selection,
            until=until,
            read_digest=read_digest,
            run=started.run if shares_run else None,
            ledger=RunLedger(
                database=self.db_manager, run_id=started.training_run_id, session_id=session_id
            ),
            resumed=started.run.tracker.run(interrupted.run_id) if interrupted else None,
        )

    def _base_model_if_found(self, family: ModelFamily) -> ResolvedModel | None:
        """Return the configured base model, or None with a warning if it can't be found."""
        try:
            return family.resolve_base(self.settings)
        except ModelError as error:
            logger.warning(
                "%s: lengths in tokens, outliers and mislabelled rows are not checked: %s",
                family.name,
                error,
            )
            return None

    def _check_model_dir(self, families: Sequence[ModelFamily]) -> None:
        """Raise `ConfigError` if a root could not be exported, before hours are spent on one."""
        tracking = self.settings.tracking
        names = [tracking.registered_name(family.name) for family in families]
        check_model_dir(Path(self.settings.model_dir), names)

    def _log_settings(self, run: TrackedRun) -> None:
        settings = plain_settings(self.settings, self.db_manager.shown_url)
        run.log_dict(settings, "config.yaml")
        run.log_dict(settings, CONFIGURATION)
        run.log_params(dict(leaves(settings)))

    def _tags(self, session_id: str) -> dict[str, str]:
        return {"tunetrail.session_id": session_id, **version_tags(), **git_tags()}

    def _mark_interrupted_in_database(self) -> None:
        for run in self.db_manager.mark_interrupted_runs():
            logger.warning(
                "a training run (session %s) was left by a process that died; "
                "it is marked as interrupted: `tunetrail resume %s` continues it",
                run.session_id,
                run.run_id,
            )

    def _settle_roots(self, tracker: Tracker, families: Sequence[ModelFamily]) -> None:
        """Finish the moves of dead processes, and remove what they left in other folders."""
        for family in families:
            name = self.settings.tracking.registered_name(family.name)
            alias = RootAlias(tracker=tracker, name=name)
            model_dir = Path(self.settings.model_dir)
            RootMoves(alias=alias, model_dir=model_dir, database=self.db_manager).settle()
        for folder in sweep(Path(tempfile.gettempdir())):
            logger.warning("removed %s, which a dead process left", folder)

    def _mark_interrupted_in_tracking(self, tracker: Tracker) -> None:
        for run_id in tracker.mark_interrupted_runs():
            logger.warning(
                "the MLflow run %s was left by a process that died; it is marked as interrupted",
                run_id,
            )
            folder_name = check_identifier("run_id", run_id)
            remove_leftovers(Path(self.settings.output_dir) / folder_name)


def _selection_by_hand(settings: Settings, resumable_run: ResumableRun) -> str | None:
    """Return how a sweep's job was chosen that the user resumes; None for any other run.

    Raises:
        UserError: The job has not ended yet, so that its sweep has to go on first.
    """
    sweep = settings.sweep
    if sweep.run_id is None:
        return None
    if resumable_run.training.state != RunState.FITTED:
        raise UserError(
            f"RUN_ID must be the id of a sweep for its jobs that have not ended, got job "
            f"{sweep.job} of the sweep {sweep.run_id}. Continue with tunetrail resume "
            f"{sweep.run_id}."
        )
    return f"job {sweep.job} of the sweep {sweep.run_id}, chosen by hand"
