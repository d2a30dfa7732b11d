"""ModelTrainingNode: one session in, a better root model out, every failure recorded. The steps are the pipeline's."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.config import ALL, Settings, check_identifier, requested_model_types
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.report.session_report import joined
from tunetrail.data.rows import rows_frame, rows_of_shape
from tunetrail.errors import ConfigError, ModelError, SessionError, TunetrailError, did_you_mean, state_after
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.paths import made_folder
from tunetrail.pipeline import DataSciencePipeline, Outcome, remove_leftovers
from tunetrail.samples import SampleKind
from tunetrail.stores.database import DatabaseManager, PromotionRecord, SessionSummary
from tunetrail.stores.tracking import TrackedRun, Tracker

logger = logging.getLogger(__name__)

_REQUEST_KEYS = ("session_id", "model_type")
_VERSIONED = ("tunetrail", "torch", "pytorch-lightning", "transformers", "sentence-transformers", "peft", "mlflow")


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
            settings = dataclasses.replace(settings, llm=dataclasses.replace(settings.llm, model=self.llm_model))
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
        session_id, model_type = _checked_request(request)
        model_types = requested_model_types(model_type)
        summary = self.db_manager.session_summary(session_id)
        self._mark_interrupted_in_database()
        run_id = self.db_manager.create_training_run(session_id, model_type)
        with self._recorded(run_id):
            tracker = Tracker(self.settings.tracking)
            for interrupted in tracker.mark_interrupted_runs():
                logger.warning(
                    "the MLflow run %s was left by a process that died; it is marked as interrupted", interrupted
                )
                remove_leftovers(Path(self.settings.output_dir) / check_identifier("run_id", interrupted))
            run = tracker.start_run(
                self.run_name or f"{session_id} ({model_type})",
                parent_run_id=self.parent_run_id,
                tags={**self._tags(session_id), "tunetrail.training_run": run_id, "tunetrail.model_type": model_type},
            )
            self.db_manager.update_training_run(run_id, state="running", mlflow_run_id=run.run_id)
            with run.ending():
                self._log_settings(run)
                results = self._train(tracker, run, run_id, summary, model_type, model_types)
                run.log_dict(results, "results.json")
            self.db_manager.update_training_run(run_id, state="succeeded", result=results)
        return results

    def prepare(self, request: Mapping[str, Any], folder: Path) -> PreparedSession:
        """Validate, clean and split a session's rows into files, and train nothing; no run is recorded.

        Args:
            request: `session_id`, and `model_type`: `embedding`, `llm` or `all`, which takes the kinds that there are.
            folder: Made if it isn't there; an earlier preparation in it is replaced. See `PreparedSession.folder`.

        Raises:
            UserError: The request or the session can't be prepared.
        """
        session_id, model_type = _checked_request(request)
        summary = self.db_manager.session_summary(session_id)
        counts = {"embedding": summary.embedding, "llm": summary.llm}
        present = tuple(each for each, count in counts.items() if count)
        model_types = present if model_type == ALL and present else requested_model_types(model_type)
        _check_samples(summary, model_types)
        pipeline = DataSciencePipeline(self.settings)
        parts = {}
        with tempfile.TemporaryDirectory(dir=made_folder(folder), prefix=".parts-") as scratch:
            for each in model_types:
                parts[each] = pipeline.prepare(
                    each,
                    self._frames(session_id, each),
                    Path(scratch) / each,
                    reference=self._previous_rows(session_id, each),
                    base=_found_model(pipeline, each),
                )
            return joined(parts, folder, session_id, {each: self.settings.of(each).max_length for each in parts})

    def _frames(self, session_id: str, model_type: str) -> Iterator[pd.DataFrame]:
        for chunk in self.db_manager.read_samples(session_id, SampleKind(model_type)):
            yield rows_frame((stored.row_id, stored.sample) for stored in chunk)

    def _previous_rows(self, session_id: str, model_type: str) -> pd.DataFrame | None:
        """Return rows of the last session before this one that has samples of the model type, None if none has."""
        names = [each.session_id for each in self.db_manager.sessions() if getattr(each, model_type)]
        before = names[: names.index(session_id)] if session_id in names else names
        wanted = self.settings.validation.judged_rows
        if not before or not wanted:
            return None
        chunks = self.db_manager.read_samples(before[-1], SampleKind(model_type))
        stored = islice((each for chunk in chunks for each in chunk), wanted)
        rows = rows_frame((each.row_id, each.sample) for each in stored)
        shape = self.settings.embedding.shape if model_type == "embedding" else None
        return rows if shape is None else rows_of_shape(rows, shape)

    def _train(
        self,
        tracker: Tracker,
        run: TrackedRun,
        run_id: str,
        summary: SessionSummary,
        model_type: str,
        model_types: tuple[str, ...],
    ) -> dict[str, Any]:
        _check_samples(summary, model_types)
        pipeline = DataSciencePipeline(self.settings, tracker=tracker)
        for each in model_types:
            pipeline.resolve(each)
        outcomes = [self._train_type(pipeline, run, run_id, summary.session_id, each) for each in model_types]
        timestamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        steps: dict[str, dict[str, Any]] = {}
        for outcome in outcomes:
            for name, step in outcome.to_dict().items():
                steps.setdefault(name, {})[outcome.model_type] = step
        identity = {"session_id": summary.session_id, "model_type": model_type, "timestamp": timestamp}
        return {**identity, "results": {**identity, "steps": steps}}

    def _train_type(
        self, pipeline: DataSciencePipeline, run: TrackedRun, run_id: str, session_id: str, model_type: str
    ) -> Outcome:
        def record(outcome: Outcome) -> None:
            self.db_manager.record_promotion(_promotion(outcome, run_id, session_id))

        outcome = pipeline.run(
            model_type,
            self._frames(session_id, model_type),
            name=session_id,
            parent=run,
            tags=self._tags(session_id),
            reference=self._previous_rows(session_id, model_type),
            on_decision=record,
        )
        comparison = outcome.comparison
        run.log_metrics(
            {
                f"{model_type}/{name}": getattr(comparison, name)
                for name in ("after", "before", "improvement", "lower", "upper")
            }
        )
        run.set_tags({f"tunetrail.{model_type}.decision": outcome.decision.word})
        return outcome

    def _log_settings(self, run: TrackedRun) -> None:
        settings = dataclasses.asdict(self.settings)
        settings["database"]["url"] = self.db_manager.shown_url
        settings["tracking"].pop("uri")
        run.log_dict(settings, "config.yaml")
        run.log_params(dict(_leaves(settings)))

    def _tags(self, session_id: str) -> dict[str, str]:
        versions = {f"version.{name}": importlib.metadata.version(name) for name in _VERSIONED}
        return {"tunetrail.session_id": session_id, **versions, **_git_tags()}

    def _mark_interrupted_in_database(self) -> None:
        for run in self.db_manager.mark_interrupted_runs():
            logger.warning(
                "training run %s (session %s) was left by a process that died; it is marked as interrupted",
                run.run_id,
                run.session_id,
            )

    @contextlib.contextmanager
    def _recorded(self, run_id: str) -> Iterator[None]:
        """Mark the database's training run as failed or interrupted when the block is left by an exception."""
        try:
            yield
        except BaseException as error:
            state, reason = state_after(error)
            try:
                self.db_manager.update_training_run(run_id, state=state, reason=reason)
            except TunetrailError as second:
                error.add_note(f"The training run {run_id} could not be marked as {state}: {second}")
            raise


def _found_model(pipeline: DataSciencePipeline, model_type: str) -> ResolvedModel | None:
    """Return the configured base model, or None with a warning where it is nowhere to be found."""
    try:
        return pipeline.resolve(model_type)
    except ModelError as error:
        logger.warning("%s: lengths in tokens, outliers and mislabelled rows are not checked: %s", model_type, error)
        return None


def _checked_request(request: Mapping[str, Any]) -> tuple[str, str]:
    for key in request:
        if key not in _REQUEST_KEYS:
            raise ConfigError(f"the request has no key {key!r}.{did_you_mean(str(key), _REQUEST_KEYS)}")
    if "session_id" not in request:
        raise ConfigError("session_id must be given. `tunetrail sessions` lists them.")
    return check_identifier("session_id", request["session_id"]), str(request.get("model_type", "all"))


def _check_samples(summary: SessionSummary, model_types: tuple[str, ...]) -> None:
    counts = {"embedding": summary.embedding, "llm": summary.llm}
    if not any(counts.values()):
        raise SessionError(
            f"session {summary.session_id!r} has no samples. "
            f"Add some: tunetrail ingest FILE --session {summary.session_id} --kind embedding"
        )
    for model_type in model_types:
        if not counts[model_type]:
            other = next(each for each, count in counts.items() if count)
            raise SessionError(
                f"session {summary.session_id!r} has no {model_type} samples ({counts[other]} {other}). "
                f"Train with model_type={other}, or ingest some with --kind {model_type}."
            )


def _promotion(outcome: Outcome, run_id: str, session_id: str) -> PromotionRecord:
    comparison = outcome.comparison
    return PromotionRecord(
        model_name=outcome.version.name,
        version=outcome.version.version,
        previous_version=outcome.previous.version if outcome.previous else None,
        decision=outcome.decision.word,
        reason=outcome.decision.reason,
        metric=comparison.metric,
        before=comparison.before,
        after=comparison.after,
        improvement=comparison.improvement,
        lower=comparison.lower,
        upper=comparison.upper,
        run_id=run_id,
        mlflow_run_id=outcome.mlflow_run_id,
        session_id=session_id,
    )


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _git_tags() -> dict[str, str]:
    """Return the commit of the folder that tunetrail is run in and whether it is dirty; nothing outside git."""

    executable = shutil.which("git")
    if executable is None:
        return {}

    def git(*arguments: str) -> str | None:
        command = [executable, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - fixed words
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"mlflow.source.git.commit": commit, "git.dirty": str(bool(git("status", "--porcelain"))).lower()}
