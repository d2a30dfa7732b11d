"""What the stages of a run share: settings, MLflow run, state, base model and registry."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from tunetrail.config import ModelSection, Settings
from tunetrail.data.flow.preparation import result_cache
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.deployment.registry import Registry
from tunetrail.evaluation.scores import Scores
from tunetrail.learning.learner import Learner
from tunetrail.learning.models.catalog import ResolvedModel
from tunetrail.pipeline.general_file import GeneralFile
from tunetrail.pipeline.history import NO_HISTORY, History
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.model_loader import ModelLoader
from tunetrail.pipeline.run_clock import RunClock
from tunetrail.pipeline.run_state import SavedRunState
from tunetrail.stores.tracking.tracker import TrackedRun


@dataclass(frozen=True, kw_only=True)
class ReferenceScores:
    """The scores of the version to beat on the test rows.

    Attributes:
        version: The version; None for the base model.
        scores: Its scores.
    """

    version: ModelVersion | None
    scores: Scores


@dataclass(kw_only=True)
class StageContext:
    """The surroundings of one run, handed from stage to stage.

    Attributes:
        family: The family of the model.
        settings: All that can be set.
        name: What the rows are called in MLflow, for example the session's id.
        sessions: The sessions that the rows are from; the name itself if it is no session.
        tags: Further tags of the run and of the version that it registers.
        run: The MLflow run.
        state: How far the run has come.
        base: Where the base model is.
        registry: The versions of the model type.
        history: What is known of earlier trainings.
        corpus_documents: The documents of the corpus file; none without a file.
        general_file: Rows that every candidate is scored on; None if there is no such file.
        selection: How the candidate was chosen among several; None if it is the only one.
        reference_scores: Scores from before the training; None if there are none.
        models: Loads the base models that the stages apply.
        clock: Tells how long the run still takes, once its rows are prepared.
    """

    family: ModelFamily
    settings: Settings
    name: str
    sessions: Sequence[str]
    tags: Mapping[str, str]
    run: TrackedRun
    state: SavedRunState
    base: ResolvedModel
    registry: Registry
    history: History = NO_HISTORY
    corpus_documents: Sequence[str] = ()
    general_file: GeneralFile | None = None
    selection: str | None = None
    reference_scores: ReferenceScores | None = field(default=None, init=False)
    models: ModelLoader = field(init=False)
    clock: RunClock = field(default_factory=RunClock, init=False)

    def __post_init__(self) -> None:
        self.models = ModelLoader(settings=self.settings)

    @property
    def model_type(self) -> str:
        """The name of the family."""
        return self.family.name

    @property
    def config(self) -> ModelSection:
        """The section of the family."""
        return self.family.section(self.settings)

    def learner(self, shape: str) -> Learner:
        """Return the learner for samples of a shape."""
        cache = result_cache(self.settings.preparation)
        return self.family.learner(self.settings, shape, cache)

    def corpus_rows(self, train: pd.DataFrame, further: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return the rows that held-out rows are ranked against: see `ModelFamily.corpus_rows`."""
        return self.family.corpus_rows(
            self.settings, train, further, documents=self.corpus_documents
        )

    def base_model(self) -> Any:
        """Return the base model; it is loaded at the first call, and again after a release."""
        return self.models.load(self.family, self.base.path)

    def finish_step(
        self, name: str, result: dict[str, Any], metrics: Mapping[str, float] | None = None
    ) -> None:
        """Write a step's result and metrics to the run; a resumed run doesn't do the step again."""
        log_step(self.run, name, result, metrics)
        # The state last: after a kill before it, the step is done and logged again.
        self.state.steps[name] = result
        self.state.save()


def log_step(
    run: TrackedRun, name: str, result: dict[str, Any], metrics: Mapping[str, float] | None = None
) -> None:
    """Write a step's result and its metrics to a run."""
    run.log_metrics({f"{name}/{key}": value for key, value in (metrics or {}).items()})
    run.log_dict(result, f"steps/{name}.json")
