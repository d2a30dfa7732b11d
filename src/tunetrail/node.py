"""ModelTrainingNode: one session in, a better root model out, every failure recorded. The steps are the pipeline's."""

import dataclasses
import datetime
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunetrail.config import ALL, Settings, check_identifier, requested_model_types
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.report.session_report import joined
from tunetrail.errors import ModelError
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.paths import made_folder
from tunetrail.pipeline import STEPS, DataSciencePipeline, Outcome, remove_leftovers
from tunetrail.pipeline.kept_settings import leaves, plain_settings, settings_of
from tunetrail.pipeline.records import record_promotion, recorded, resumable, summarize
from tunetrail.pipeline.requests import check_samples, checked_request
from tunetrail.pipeline.session_rows import previous_rows, session_frames
from tunetrail.stores.database import DatabaseManager, SessionSummary
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


@dataclass(kw_only=True)
class NodeConfig:
    """What a ModelTrainingNode trains, with what, and where the result goes.

    Attributes:
        model_dir: Folder of the exported root models; `settings.model_dir` where None.
        embedding_model: Short name, hub id or folder; `settings.embedding.model` where None.
        llm_model: Short name, hub id or folder; `settings.llm.model` where None.
        pipeline_config: The specification's dict (`output_dir`, `n_splits`, `random_state`, `models_root_dir`).
        training_config: The specification's dict of hyper-parameters for `embedding` and `llm`.
        settings: Everything else; after construction, all of the above applied.

    Raises:
        ConfigError: An unknown key (with the nearest known one), or a value of the wrong type or out of range.
    """

    model_dir: str | None = None
    embedding_model: str | None = None
    llm_model: str | None = None
    pipeline_config: Mapping[str, Any] | None = None
    training_config: Mapping[str, Mapping[str, Any]] | None = None
    settings: Settings = dataclasses.field(default_factory=Settings)

    def __post_init__(self) -> None:
        settings = self.settings.with_specification(self.pipeline_config, self.training_config)
        if self.model_dir is not None:
            settings = dataclasses.replace(settings, model_dir=str(self.model_dir))
        if self.embedding_model is not None:
            embedding = dataclasses.replace(settings.embedding, model=self.embedding_model)
            settings = dataclasses.replace(settings, embedding=embedding)
        if self.llm_model is not None:
            settings = dataclasses.replace(
                settings, llm=dataclasses.replace(settings.llm, model=self.llm_model)
            )
        self.settings = settings


class ModelTrainingNode:
    """Trains the models of a session's samples and promotes them where they are measurably better.

    Args:
        config: What is trained and how.
        db_manager: The database that holds the session.
        parent_run_id: An MLflow run to put the pipeline's run under, for example that of a sweep.
        run_name: Name of the pipeline's run in MLflow; session and model type where None.
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

    def execute(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Train on one session.

        Args:
            request: `session_id`, and `model_type`: `embedding`, `llm` or `all` (the default).

        Returns:
            The specification's "Training Results", JSON-serialisable. Each step holds one entry per model type.

        Raises:
            UserError: The request, the session or its samples can't be trained on.
            TunetrailError: Something failed; the run is marked failed with the reason, in MLflow and in the database.
        """
        session_id, model_type = checked_request(request)
        summary = self.db_manager.session_summary(session_id)
        check_samples(summary, requested_model_types(model_type))

        self._mark_interrupted_in_database()
        run_id = self.db_manager.create_training_run(session_id, model_type)
        with recorded(self.db_manager, run_id):
            tracker = Tracker(self.settings.tracking)
            self._mark_interrupted_in_tracking(tracker)
            run = tracker.start_run(
                self.run_name or f"{session_id} ({model_type})",
                parent_run_id=self.parent_run_id,
                tags={
                    **self._tags(session_id),
                    TRAINING_RUN_TAG: run_id,
                    "tunetrail.model_type": model_type,
                },
            )
            self.db_manager.update_training_run(run_id, state="running", mlflow_run_id=run.run_id)
            return self._completed(run, run_id, summary, model_type, {})

    def resume(self, run_id: str, *, force: bool = False) -> dict[str, Any]:
        """Go on with a run that failed, was stopped or was killed, as if it had never ended.

        It is told what it was told when it began; of this node's settings, only where runs are tracked is used.

        Args:
            run_id: The run's id in MLflow, or that of a run below it, or of the training run in the database.
            force: Take a run that another host has not ended for dead.

        Returns:
            The results that `execute` would have returned.

        Raises:
            UserError: There is no such run, it has succeeded or is alive, or what is kept of it is gone or broken.
            TunetrailError: Something failed; the run is marked failed with the reason, as by `execute`.
        """
        found = find_resumable_run(self.settings.tracking, self.db_manager, run_id, force=force)
        settings = settings_of(found.settings, self.settings.tracking)
        return ModelTrainingNode(NodeConfig(settings=settings), self.db_manager)._go_on(found)

    def _go_on(self, found: ResumableRun) -> dict[str, Any]:
        training = found.training
        summary = self.db_manager.session_summary(training.session_id)
        check_samples(summary, requested_model_types(training.model_type))

        tracker = Tracker(self.settings.tracking)
        pipeline = DataSciencePipeline(self.settings, tracker=tracker)
        for model_run in found.model_runs.values():
            if not model_run.finished:
                pipeline.kept(model_run.run_id)
        self.db_manager.reopen_training_run(training)
        with recorded(self.db_manager, training.run_id):
            self._mark_interrupted_in_tracking(tracker)
            if found.changed_versions:
                logger.warning(
                    "the run was begun with other versions: %s", ", ".join(found.changed_versions)
                )
            run = tracker.run(found.run_id)
            run.reopen()
            return self._completed(
                run, training.run_id, summary, training.model_type, found.model_runs
            )

    def prepare(self, request: Mapping[str, Any], folder: Path) -> PreparedSession:
        """Validate, clean and split a session's rows into files, and train nothing; no run is recorded.

        Args:
            request: `session_id`, and `model_type`: `embedding`, `llm` or `all`, which takes the kinds that there are.
            folder: Made if it isn't there; an earlier preparation in it is replaced. See `PreparedSession.folder`.

        Raises:
            UserError: The request or the session can't be prepared.
        """
        session_id, model_type = checked_request(request)
        summary = self.db_manager.session_summary(session_id)
        counts = {"embedding": summary.embedding, "llm": summary.llm}
        present = tuple(each for each, count in counts.items() if count)
        model_types = (
            present if model_type == ALL and present else requested_model_types(model_type)
        )
        check_samples(summary, model_types)
        pipeline = DataSciencePipeline(self.settings)
        parts = {}
        with tempfile.TemporaryDirectory(dir=made_folder(folder), prefix=".parts-") as scratch:
            for each in model_types:
                parts[each] = pipeline.prepare(
                    each,
                    session_frames(self.db_manager, session_id, each),
                    Path(scratch) / each,
                    reference=previous_rows(self.db_manager, session_id, each, self.settings),
                    base=_found_model(pipeline, each),
                )
            return joined(
                parts,
                folder,
                session_id,
                {each: self.settings.of(each).max_length for each in parts},
            )

    def _completed(
        self,
        run: TrackedRun,
        run_id: str,
        summary: SessionSummary,
        model_type: str,
        begun: Mapping[str, ModelRun],
    ) -> dict[str, Any]:
        """Bring a run to its end and return its results; `begun` are the runs of a resumed run by model type."""
        with run.ending():
            if not run.resumed:
                self._log_settings(run)
            steps = self._train(run, run_id, summary, requested_model_types(model_type), begun)
            timestamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            identity = {
                "session_id": summary.session_id,
                "model_type": model_type,
                "timestamp": timestamp,
            }
            results = {**identity, "results": {**identity, "steps": steps}}
            run.log_dict(results, "results.json")
        self.db_manager.update_training_run(run_id, state="succeeded", result=results)
        return results

    def _train(
        self,
        run: TrackedRun,
        run_id: str,
        summary: SessionSummary,
        model_types: tuple[str, ...],
        begun: Mapping[str, ModelRun],
    ) -> dict[str, dict[str, Any]]:
        """Train the model types that aren't finished, and return the results by step and type."""
        tracker = run.tracker
        pipeline = DataSciencePipeline(self.settings, tracker=tracker)
        finished = [each for each in model_types if each in begun and begun[each].finished]
        for each in model_types:
            if each not in finished:
                pipeline.resolve(each)
        steps: dict[str, dict[str, Any]] = {}
        for each in model_types:
            if each in finished:
                results = finished_steps(tracker, begun[each].run_id, STEPS)
            else:
                resumed = tracker.run(begun[each].run_id) if each in begun else None
                with resumable(run):
                    results = self._train_type(
                        pipeline, run, run_id, summary.session_id, each, resumed
                    ).to_dict()
            summarize(run, each, results)
            for name, step in results.items():
                steps.setdefault(name, {})[each] = step
        return steps

    def _train_type(
        self,
        pipeline: DataSciencePipeline,
        run: TrackedRun,
        run_id: str,
        session_id: str,
        model_type: str,
        resumed: TrackedRun | None,
    ) -> Outcome:
        def record(outcome: Outcome) -> None:
            record_promotion(self.db_manager, outcome, run_id, session_id)

        return pipeline.run(
            model_type,
            session_frames(self.db_manager, session_id, model_type),
            name=session_id,
            parent=run,
            tags=self._tags(session_id),
            reference=previous_rows(self.db_manager, session_id, model_type, self.settings),
            on_decision=record,
            resumed=resumed,
        )

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
                "a training run (session %s) was left by a process that died; it is marked as interrupted: "
                "`tunetrail resume %s` goes on with it",
                run.session_id,
                run.run_id,
            )

    def _mark_interrupted_in_tracking(self, tracker: Tracker) -> None:
        for interrupted in tracker.mark_interrupted_runs():
            logger.warning(
                "the MLflow run %s was left by a process that died; it is marked as interrupted",
                interrupted,
            )
            remove_leftovers(
                Path(self.settings.output_dir) / check_identifier("run_id", interrupted)
            )


def _found_model(pipeline: DataSciencePipeline, model_type: str) -> ResolvedModel | None:
    """Return the configured base model, or None with a warning where it is nowhere to be found."""
    try:
        return pipeline.resolve(model_type)
    except ModelError as error:
        logger.warning(
            "%s: lengths in tokens, outliers and mislabelled rows are not checked: %s",
            model_type,
            error,
        )
        return None
