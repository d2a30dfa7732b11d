"""What the stages of a run share: settings, MLflow run, state, base model and registry."""

from collections.abc import Callable, Mapping, Sequence
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
from tunetrail.pipeline.benchmark import Benchmark
from tunetrail.pipeline.general_file import GeneralFile
from tunetrail.pipeline.lineage import Lineage
from tunetrail.pipeline.looks import (
    CountLooks,
    ReadPromotionRows,
    no_looks,
    no_promotion_rows,
)
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.model_loader import ModelLoader
from tunetrail.pipeline.run_state import RunState
from tunetrail.stores.database import DatabaseManager
from tunetrail.stores.tracking import TrackedRun

ReadOwnColumns = Callable[[Sequence[int]], Mapping[int, Mapping[str, Any]]]
"""Takes row ids; returns, by row id, the columns that the user gave the rows and no shape knows."""


def no_own_columns(row_ids: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
    """Return nothing: rows that are in no database have no further columns."""
    return {}


@dataclass(frozen=True, kw_only=True)
class ReferenceScores:
    """The scores of the version to beat on the test rows.

    Attributes:
        version: The version; None for the base model.
        scores: Its scores.
    """

    version: ModelVersion | None
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class RunLedger:
    """The ledger, for the decisions on the candidates of one training run.

    Attributes:
        database: Holds the ledger.
        run_id: The training run.
        session_ids: The sessions that are learnt from.
    """

    database: DatabaseManager
    run_id: str
    session_ids: Sequence[str]


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
        count_looks: Counts the earlier looks at test rows.
        lineage: Knows what registered versions have learnt from; None without a database.
        read_own_columns: Reads the columns of rows that no shape knows.
        benchmark: Test rows of earlier sessions; None without a database.
        corpus_documents: The documents of the corpus file; none without a file.
        general_file: Rows that every candidate is scored on; None if there is no such file.
        read_promotion_rows: Reads which test rows a version was promoted by.
        selection: How the candidate was chosen among several; None if it is the only one.
        ledger: Where decisions are written down; None without a database.
        reference_scores: Scores from before the training; None if there are none.
        models: Loads the base models that the stages apply.
    """

    family: ModelFamily
    settings: Settings
    name: str
    sessions: Sequence[str]
    tags: Mapping[str, str]
    run: TrackedRun
    state: RunState
    base: ResolvedModel
    registry: Registry
    count_looks: CountLooks = no_looks
    lineage: Lineage | None = None
    read_own_columns: ReadOwnColumns = no_own_columns
    benchmark: Benchmark | None = None
    corpus_documents: Sequence[str] = ()
    general_file: GeneralFile | None = None
    read_promotion_rows: ReadPromotionRows = no_promotion_rows
    selection: str | None = None
    ledger: RunLedger | None = None
    reference_scores: ReferenceScores | None = field(default=None, init=False)
    models: ModelLoader = field(init=False)

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
