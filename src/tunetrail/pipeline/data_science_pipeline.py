"""DataSciencePipeline: the stages of one model type, from rows to a registered version."""

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pandas as pd

from tunetrail.config import Settings, check_identifier, sessions_of_name
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.deployment.registry import Registry
from tunetrail.errors import naming_section
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.learning.out_of_memory import explaining_full_memory
from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.pipeline.corpus_file import corpus_documents
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.general_file import GeneralFile, read_general_file
from tunetrail.pipeline.history import NO_HISTORY, History
from tunetrail.pipeline.jobs import ignore_metrics
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.model_loader import ModelLoader
from tunetrail.pipeline.outcome import STAGES, Outcome, OutcomeState, Pruned, check_stage
from tunetrail.pipeline.planning.head import start_clock
from tunetrail.pipeline.preparing import prepare_sessions
from tunetrail.pipeline.run_names import run_name
from tunetrail.pipeline.run_settings import family_params
from tunetrail.pipeline.run_state import SavedRunState, working_folder
from tunetrail.pipeline.session_rows import SessionRows
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.pipeline.stages.check_room import check_room
from tunetrail.pipeline.stages.cross_validate import cross_validate
from tunetrail.pipeline.stages.deploy import Deployment, deploy
from tunetrail.pipeline.stages.evaluate import evaluate
from tunetrail.pipeline.stages.fit import ValidationSink, fit, ignore_validation
from tunetrail.pipeline.stages.general_set import (
    check_general_set,
    check_same_file,
    log_general_file,
)
from tunetrail.pipeline.stages.leave_out import leave_out_learnt
from tunetrail.pipeline.stages.prepare import prepare
from tunetrail.pipeline.stages.score_validation import score_validation
from tunetrail.pipeline.train_rows import TrainRowBuilder
from tunetrail.run_reports import try_to_log_report
from tunetrail.stores.spools import SPOOL
from tunetrail.stores.tracking.run_tags import FAMILY_TAG, OUTCOME_TAG
from tunetrail.stores.tracking.system_metrics import system_metrics
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker
from tunetrail.verbosity import saying

Rows: TypeAlias = pd.DataFrame | Iterable[pd.DataFrame] | Mapping[str, SessionRows]
"""Samples, see `DataSciencePipeline.prepare`."""


def ignore_decision(deployment: Deployment) -> None:
    """Take the decision and forget it."""


def open_tracker(settings: Settings) -> Tracker:
    """Open the MLflow store of the settings, for trainings: they don't wait for it."""
    return Tracker(settings.tracking, spool=Path(settings.output_dir) / SPOOL)


class DataSciencePipeline:
    """Takes rows through the stages: prepare, cross-validate, fit, evaluate, deploy.

    Args:
        settings: All that can be set; defaults if None.
        pipeline_config: As for `NodeConfig`: any of `output_dir`, `n_splits`, `random_state`,
            `models_root_dir`.
        training_config: As for `NodeConfig`: hyperparameters by model type.
        tracker: The MLflow store; opened from the settings if None.

    Raises:
        ConfigError: An unknown key or a value out of range.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        pipeline_config: Mapping[str, Any] | None = None,
        training_config: Mapping[str, Mapping[str, Any]] | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        settings = settings or Settings()
        self.settings = settings.with_short_configs(pipeline_config, training_config)
        self._tracker = tracker

    @property
    def tracker(self) -> Tracker:
        """The MLflow store, opened at first use."""
        # Not in the constructor: preparing rows needs no store.
        if self._tracker is None:
            self._tracker = open_tracker(self.settings)
        return self._tracker

    def resolve(self, model_type: str) -> ResolvedModel:
        """Find the configured base model, so that a wrong name fails before any work is done."""
        return family_named(model_type).resolve_base(self.settings)

    @saying(None)
    def prepare(
        self,
        model_type: str,
        rows: Rows,
        folder: Path,
        *,
        reference: pd.DataFrame | None = None,
        base: ResolvedModel | None = None,
    ) -> PreparedSession:
        """Validate, clean and split rows into files, and train nothing.

        Args:
            model_type: `embedding` or `llm`.
            rows: The samples, as `tunetrail.data.rows.rows_frame` makes them: one frame, or any
                number of them with ascending row ids, of which few are in memory at a time; or
                the rows of each session by its id.
            folder: Where everything is written.
            reference: Rows of the previous session, to measure drift against, if `rows` doesn't
                hold them by session.
            base: The model whose tokenizer and vectors are used; without it, checks that need a
                model are left out.

        Raises:
            SampleError: There are no rows, or they have several shapes and none is chosen.
        """
        path = base.path if base else None
        family = family_named(model_type)
        models = ModelLoader(settings=self.settings)
        sessions = _by_session(rows, "rows", reference)
        return prepare_sessions(family, self.settings, path, models, sessions, folder)

    @saying(None)
    def run(
        self,
        model_type: str,
        rows: Rows,
        *,
        name: str = "rows",
        parent: TrackedRun | None = None,
        tags: Mapping[str, str] | None = None,
        reference: pd.DataFrame | None = None,
        on_metrics: MetricsSink = ignore_metrics,
        on_validation: ValidationSink = ignore_validation,
        on_decision: Callable[[Deployment], None] = ignore_decision,
        history: History = NO_HISTORY,
        general_file: GeneralFile | None = None,
        selection: str | None = None,
        registry: Registry | None = None,
        until: str = "deploy",
        run: TrackedRun | None = None,
        resumed: TrackedRun | None = None,
    ) -> Outcome:
        """Run the stages for one model type.

        Args:
            model_type: `embedding` or `llm`.
            rows: The samples, as for `prepare`.
            name: What the rows are called in MLflow, for example the session's id.
            parent: The pipeline's run, above the run of this model type.
            tags: Further tags of the run and the registered version.
            reference: As for `prepare`.
            on_metrics: Receives the metrics of the fit while it trains; may raise `Pruned` to end
                the run.
            on_validation: Receives the monitored value of each validation of the fit; may raise
                `Pruned` as well.
            on_decision: Called once root has moved or has been refused, before the model directory
                follows; again if the run was interrupted right after that.
            history: What a database knows of earlier trainings.
            general_file: The general file of the settings, if it has been read already.
            selection: How the candidate was chosen among several, for the decision's sentence.
            registry: The versions of the model type, with a way of its own to read digests;
                opened from the settings if None.
            until: The stage after which the run ends. A run that ends early keeps its folder and
                can be resumed; if it ends with `fit`, its model is scored on the validation rows.
            run: An open run to write to, which the caller ends, such as that of a request for one
                model type; without it, the pipeline starts and ends a run of its own.
            resumed: A run of these settings that was interrupted, failed or ended early, to go on
                with: what it had finished is not done again, and the rows are those that it had
                prepared.

        Returns:
            The outcome: the state, the results of the stages, and one entry per step in its
                `to_dict()`.

        Raises:
            ConfigError: There is no such stage, or the corpus or general file can't be used.
            UserError: The folder of the resumed run is gone or broken.
        """
        # A mistake in the request is found before MLflow has a run that could only fail.
        check_stage(until)
        for session_id in sessions_of_name(name):
            check_identifier("name", session_id)
        family = family_named(model_type)
        base = family.resolve_base(self.settings)
        documents = corpus_documents(self.settings.evaluation, self.settings.cleaning)
        if general_file is None:
            general_file = read_general_file(self.settings, family.kind)
        is_own_run = run is None
        if resumed is not None:
            # The state first: if it can't be read, the run in MLflow stays as it was.
            state = self.run_state(resumed.run_id)
            check_same_file(general_file, state)
            if run is None:
                run = resumed
                run.reopen()
        else:
            if run is None:
                run = self._start_run(family, name, parent, tags or {})
            state = SavedRunState(folder=self._folder(run.run_id))

        sessions = _by_session(rows, name, reference)
        context = StageContext(
            family=family,
            settings=self.settings,
            name=name,
            sessions=tuple(sessions),
            tags=tags or {},
            run=run,
            state=state,
            base=base,
            registry=registry or self._registry(family, history),
            history=history,
            corpus_documents=documents,
            general_file=general_file,
            selection=selection,
        )
        run_end = run.finish_on_exit() if is_own_run else contextlib.nullcontext()
        full_memory = explaining_full_memory("Use a smaller model, or free memory.")
        # Errors leave from the last to the first: leftovers are removed, which makes room on a full
        # disk, the message gets its advice and its section, and MLflow records the final text.
        with (
            run_end,
            system_metrics(run, self.settings.tracking),
            naming_section(model_type),
            full_memory,
            working_folder(state.folder),
        ):
            sinks = _Sinks(on_metrics, on_validation, on_decision)
            _log_start(context, with_settings=is_own_run)
            outcome = _last_outcome(context, sessions, sinks, until)
            if outcome.deployment is None:
                # `succeeded` would mean that nothing is left to do.
                run.final_state = str(outcome.state)
            # A pipeline's run above this one has a page of all of its model types.
            elif is_own_run and parent is None:
                try_to_log_report(run)
            run.set_tags({OUTCOME_TAG: outcome.state})

        # Only now, since a run that fails to end may have to be resumed.
        if until == STAGES[-1] or outcome.state == OutcomeState.PRUNED:
            shutil.rmtree(state.folder, ignore_errors=True)
        return outcome

    def run_state(self, run_id: str) -> SavedRunState:
        """Return the state of a run of a model type; raises `UserError` if it is gone or broken."""
        return SavedRunState.open(self._folder(run_id))

    def _folder(self, run_id: str) -> Path:
        return Path(self.settings.output_dir) / check_identifier("run_id", run_id)

    def _registry(self, family: ModelFamily, history: History) -> Registry:
        name = self.settings.tracking.registered_name(family.name)
        return Registry(self.tracker, name, family.flavor, history.read_digest)

    def _start_run(
        self, family: ModelFamily, name: str, parent: TrackedRun | None, tags: Mapping[str, str]
    ) -> TrackedRun:
        return self.tracker.start_run(
            run_name(self.settings, name, [family]),
            parent_run_id=parent.run_id if parent else None,
            tags={"tunetrail.model_type": family.name, **tags},
        )


def _by_session(rows: Rows, name: str, reference: pd.DataFrame | None) -> Mapping[str, SessionRows]:
    """Return rows by session; rows of no session get the given name."""
    if isinstance(rows, Mapping):
        return rows
    return {name: SessionRows(rows=rows, reference=reference)}


class _Sinks(NamedTuple):
    """What the caller is told while a run goes on: see `DataSciencePipeline.run`."""

    on_metrics: MetricsSink
    on_validation: ValidationSink
    on_decision: Callable[[Deployment], None]


def _log_start(context: StageContext, *, with_settings: bool) -> None:
    """Log what a run begins with.

    Args:
        context: The run.
        with_settings: As for `_log_base_model`.
    """
    # Even a run that dies in its first stage has a state that can be resumed.
    context.state.save()
    context.run.set_tags({FAMILY_TAG: context.model_type})
    _log_base_model(context, with_settings=with_settings)
    log_general_file(context)


def _last_outcome(
    context: StageContext, sessions: Mapping[str, SessionRows], sinks: _Sinks, until: str
) -> Outcome:
    """Return the outcome of the stage `until`, or of the stage that ends the run before it."""
    outcomes = _outcomes(context, sessions, sinks, until)
    # `_outcomes` is a generator: the stages after `until` never begin.
    for stage, outcome in zip(STAGES, outcomes, strict=True):
        if stage == until or outcome.state == OutcomeState.PRUNED:
            break
    return outcome


def _outcomes(
    context: StageContext,
    sessions: Mapping[str, SessionRows],
    sinks: _Sinks,
    until: str,
) -> Iterator[Outcome]:
    """Yield the outcome after each stage; finished stages are read from the run's folder."""
    builder = TrainRowBuilder(context=context)

    whole = prepare(context, builder, sessions)
    # Before the training: whether enough test rows remain is known before hours are spent.
    prepared = leave_out_learnt(context, whole)
    outcome = Outcome(
        model_type=context.model_type,
        mlflow_run_id=context.run.run_id,
        state=OutcomeState.PREPARED,
        steps=context.state.steps,
        prepared=prepared,
    )
    yield outcome

    # A run that ends before the evaluation, such as a sweep's job, must not see the test rows.
    evaluates = STAGES.index(until) >= STAGES.index("evaluate")
    context.clock = start_clock(context, prepared, evaluates=evaluates)
    if evaluates:
        check_general_set(context, prepared)
        check_room(context, prepared)
    folds = cross_validate(context, builder, prepared)
    outcome = replace(outcome, state=OutcomeState.CROSS_VALIDATED, cross_validation=folds)
    yield outcome

    try:
        fitted = fit(context, builder, prepared, sinks.on_metrics, sinks.on_validation)
    except Pruned as pruned:
        # A sweep has seen enough of this job: the run ends as finished, and its tags tell why.
        reason = str(pruned) or "ended by the caller"
        context.run.set_tags({"tunetrail.reason": reason})
        yield replace(outcome, state=OutcomeState.PRUNED, reason=reason)
        return
    outcome = replace(outcome, state=OutcomeState.FITTED, fitted=fitted)
    if until == "fit":
        outcome = replace(outcome, validation=score_validation(context, prepared, fitted))
    yield outcome

    # Again, since root may have moved during the training.
    prepared = leave_out_learnt(context, whole)
    out_of_fold = folds.out_of_fold if folds is not None else None
    evaluation = evaluate(context, prepared, fitted, out_of_fold)
    outcome = replace(outcome, state=OutcomeState.EVALUATED, evaluation=evaluation)
    yield outcome

    deployment = deploy(context, prepared, fitted, evaluation, sinks.on_decision)
    state = OutcomeState(deployment.decision.word)
    yield replace(outcome, state=state, deployment=deployment)


def _log_base_model(context: StageContext, *, with_settings: bool) -> None:
    """Log which base model the run uses, once.

    Args:
        context: The run.
        with_settings: Log the settings of the model type as well, so that MLflow's pages show them
            next to the metrics.
    """
    base, state = context.base, context.state
    if state.base_model is None:
        params = {"base_model": base.canonical_name, "base_model_source": base.source}
        if with_settings:
            params |= family_params(context.settings, context.config)
        context.run.log_params(params)
        state.base_model = base.canonical_name
        state.save()
