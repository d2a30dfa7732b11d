"""What the pipeline has to know of a kind of model: one record of functions.

Preparing rows imports it, and so the libraries that train models are for type checkers only.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.cache import ResultCache
from tunetrail.config import (
    AUTO,
    EvaluationConfig,
    ModelSection,
    Settings,
)
from tunetrail.data.lengths import TokenCounter
from tunetrail.data.rows import records_of
from tunetrail.data.splits import Split
from tunetrail.errors import SampleError
from tunetrail.evaluation.scores import Scores
from tunetrail.learning.models.catalog import (
    Catalog,
    ResolvedModel,
    resolve_model,
)
from tunetrail.learning.training.monitored import Monitor
from tunetrail.pipeline.corpus_file import RANKED_SHAPES, with_documents
from tunetrail.pipeline.monitoring import (
    MetricNames,
    Monitors,
    choose_monitor,
    gate_metric_first,
)
from tunetrail.pipeline.scoring import (
    draw_by_content,
)
from tunetrail.reporting.readable import counted
from tunetrail.samples import SampleKind, shapes_of_kind

if TYPE_CHECKING:
    from tunetrail.deployment.flavors import Flavor
    from tunetrail.learning.learner import Learner

logger = logging.getLogger(__name__)

# Rows by which it is found out which metrics the rows of a session give.
_ROWS_WITH_METRICS = 200

Record = Mapping[str, Any]
Vectors = npt.NDArray[np.float32]
"""Unit vectors of texts, [texts, dimensions]."""


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """What the pipeline has to know of a kind of model.

    A function that applies a model takes the learner, then a model that the learner has loaded.

    Attributes:
        name: The model type of requests, and the name of the registered model.
        kind: The kind of the samples that it learns from; several families may share one.
        section: Returns its section of the settings; of an installed package's family,
            `settings.family_section(name, options_class)`.
        catalog: The short names of its base models.
        flavor: How its models are written to the registry and read back.
        learner: Takes settings, the shape of the samples and a cache; returns what loads, trains
            and saves models.
        token_counter: Takes settings and the folder of a model; returns what counts tokens as the
            model does.
        reader: Takes settings; returns what loads models and gives `row_vectors`, without importing
            what trains them. None if the learner does.
        row_reader: Takes settings and the folder of a model; returns a reader for the checks of
            rows only, which takes less time, and whose `identity` tells its vectors from the
            others. None if there is none, for this model or for any.
        row_vectors: Takes texts, after a reader or a learner and a model; returns cheap vectors, by
            which rows are checked before a training.
        score: Takes held-out records, the records of the corpus and the settings of the evaluation;
            returns the scores.
        score_primary: Does the same, but computes no metric that takes more than the primary one;
            None if none does.
        remembering: Takes a learner; returns one that computes nothing of a text twice, to score
            one model on several folds. None if the folds of a model have nothing to share.
        corpus: Takes the train side and further rows of the session that aren't scored; returns
            the rows that the held-out ones are ranked against. None if nothing is ranked.
        add_answers: Takes held-out records, their scores and the settings of the evaluation;
            returns the scores, with the scores of its written answers. None if it writes nothing.
        scorable: Takes records; returns for each whether the model sees anything to score in it.
            None if it always does.
        comparing: Takes a learner, models and records; returns the learner that scores the same
            text of each record with all of these models. None if every learner does.
        token_texts: Takes a record; returns each token of it that is scored, with the text around
            it. None if the scores have no values of tokens.
        encode: Takes texts and `role`, `query` or `document`; returns the vectors by which hard
            negatives are mined. None if the models give no vectors of texts.
        monitors: Returns the metrics by which a validation can choose weights and stop a training;
            None for `val/loss` alone.
        metrics: Returns the names of the metrics that `score` gives, the primary one first, before
            anything is trained; None if only the scores tell.
        objective: Returns the objective that the settings choose, which decides what shapes are
            learnt from; None for every shape.
        objective_setting: The setting that chooses the objective.
        default_objective: The objective that is learnt of a session with several if the settings
            choose none; without one, such a session is refused.
        further_shapes: Returns the shapes that are trained on in addition to the chosen ones.
        options_class: The dataclass of the settings of an installed package's family, which are
            set as `families.NAME.KEY`; None if it has none.
        check_sharding: Raises `ConfigError` if settings don't allow sharding the model's weights
            over several devices; None if no settings do.
    """

    name: str
    kind: SampleKind
    section: Callable[[Settings], ModelSection]
    catalog: Catalog
    flavor: "Flavor"
    learner: "Callable[[Settings, str, ResultCache | None], Learner]"
    token_counter: Callable[[Settings, str], TokenCounter]
    row_vectors: Callable[[Any, Any, Sequence[str]], Vectors]
    score: Callable[[Any, Any, Sequence[Record], Sequence[Record], EvaluationConfig], Scores]
    reader: Callable[[Settings], Any] | None = None
    row_reader: Callable[[Settings, str], Any] | None = None
    score_primary: (
        Callable[[Any, Any, Sequence[Record], Sequence[Record], EvaluationConfig], Scores] | None
    ) = None
    remembering: Callable[[Any], Any] | None = None
    corpus: Callable[[pd.DataFrame, pd.DataFrame], pd.DataFrame] | None = None
    add_answers: Callable[[Any, Any, Sequence[Record], Scores, EvaluationConfig], Scores] | None = (
        None
    )
    scorable: Callable[[Any, Any, Sequence[Record]], Sequence[bool]] | None = None
    comparing: Callable[[Any, Sequence[Any], Sequence[Record]], Any] | None = None
    token_texts: Callable[[Any, Any, Record], Sequence[Any]] | None = None
    encode: Callable[..., Vectors] | None = None
    monitors: Monitors | None = None
    metrics: MetricNames | None = None
    # The defaults are for a family with one shape.
    objective: Callable[[Settings], str | None] = lambda settings: None
    objective_setting: str = "objective"
    default_objective: str = ""
    further_shapes: Callable[[Settings], Collection[str]] = lambda settings: ()
    options_class: type[Any] | None = None
    check_sharding: Callable[[Settings], None] | None = None

    def reading(self, settings: Settings) -> Any:
        """Return what loads models and applies them: the reader if there is one, or the learner."""
        # No shape and no cache: neither changes how a folder is loaded or a text is read.
        return self.reader(settings) if self.reader else self.learner(settings, "", None)

    def resolve_base(self, settings: Settings) -> ResolvedModel:
        """Find the configured base model; raises `UserError` or `ModelError` if there is none."""
        return resolve_model(self.section(settings).model, self.catalog)

    def comparing_learner(self, learner: Any, models: Sequence[Any], rows: pd.DataFrame) -> Any:
        """Return the learner that scores the same text of each row with all of the models."""
        if self.comparing is None:
            return learner
        return self.comparing(learner, models, records_of(rows))

    def scorable_mask(
        self, learner: Any, models: Sequence[Any], rows: pd.DataFrame
    ) -> npt.NDArray[np.bool_]:
        """Return for each row whether every model sees something to score in it."""
        if self.scorable is None:
            return np.ones(len(rows), dtype=bool)
        # Scores are compared row by row, so the models need the same rows: a tokenizer of another
        # base model may leave room for an output that this one cuts off.
        records = records_of(rows)
        masks = [self.scorable(learner, model, records) for model in models]
        seen_by_all: npt.NDArray[np.bool_] = np.logical_and.reduce(masks)
        return seen_by_all

    def scorable_rows(
        self, settings: Settings, learner: Any, models: Sequence[Any], rows: pd.DataFrame
    ) -> pd.DataFrame:
        """Return the rows in which every model sees something to score.

        Raises:
            SampleError: The length that models read cuts off the outputs of all rows.
        """
        scorable = rows[self.scorable_mask(learner, models, rows)].reset_index(drop=True)
        limit = f"{self.name}.max_length"
        cut_off = len(rows) - len(scorable)
        if cut_off:
            rows_in_words = counted(cut_off, "row")
            logger.warning(
                "%s: %s left unscored, as %s cuts off the output", self.name, rows_in_words, limit
            )
        if scorable.empty:
            max_length = self.section(settings).max_length
            raise SampleError(
                f"{limit}={max_length} cuts off the outputs of all rows to be scored. Raise it."
            )
        return scorable

    def corpus_rows(
        self,
        settings: Settings,
        train: pd.DataFrame,
        further: pd.DataFrame | None = None,
        *,
        documents: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Return the rows that held-out rows are ranked against, at most as many as configured.

        Args:
            settings: All that can be set.
            train: The rows of the train side, without added ones.
            further: Rows that are neither learnt from nor scored.
            documents: The documents of the corpus file, which follow the rows.
        """
        nothing = train.head(0)
        if self.corpus is None:
            return nothing
        rows = self.corpus(train, nothing if further is None else further)
        drawn = draw_by_content(rows, settings.evaluation.corpus_size)

        if train["shape"].iloc[0] not in RANKED_SHAPES:
            return drawn
        return with_documents(drawn, documents)

    def validation_corpus(
        self, settings: Settings, train: pd.DataFrame, validation: pd.DataFrame
    ) -> pd.DataFrame:
        """Return the rows that validation rows are ranked against: as many as there are of these.

        They are encoded in every validation, so the whole train side or the corpus file would take
        too long.
        """
        if self.corpus is None:
            return train.head(0)
        return draw_by_content(self.corpus(train, train.head(0)), len(validation))

    def gate_scores(
        self,
        settings: Settings,
        learner: Any,
        model: Any,
        records: Sequence[Record],
        corpus: Sequence[Record],
        *,
        only_primary: bool = False,
    ) -> Scores:
        """Return the scores of a model with the gate's metric as the primary one.

        Args:
            settings: All that can be set.
            learner: Applies the model.
            model: The model.
            records: The held-out records.
            corpus: The records that these are ranked against in addition.
            only_primary: Whether metrics may be left out that take more than the primary one.

        Raises:
            SampleError: The records have no scores, or not of the gate's metric.
        """
        chosen, score = settings.gate.metric, self.score
        # Another metric may be one of those that are left out.
        if only_primary and chosen == AUTO and self.score_primary is not None:
            score = self.score_primary
        scores = score(learner, model, records, corpus, settings.evaluation)
        return scores if chosen == AUTO else scores.judged_by(chosen)

    def check_metrics(self, settings: Settings, split: Split) -> None:
        """Raise `ConfigError` if the rows of a split don't give the metrics that are asked for."""
        train = split.train
        if settings.gate.metric != AUTO:
            drawn = train.sample(min(len(train), _ROWS_WITH_METRICS), random_state=0)
            self.metric_names(settings, str(train["shape"].iloc[0]), records_of(drawn))
        self.monitor_of(settings, train, split.validation)

    def metric_names(
        self, settings: Settings, shape: str, records: Sequence[Record]
    ) -> Sequence[str]:
        """Return the metrics that records are scored by, the one that decides at the gate first.

        Args:
            settings: All that can be set.
            shape: The shape of the records.
            records: Two records or more.

        Returns:
            The names; none if only the scores tell them.

        Raises:
            ConfigError: The gate can't decide by the metric that is asked for.
        """
        if self.metrics is None:
            return []
        names = self.metrics(shape, records, settings.evaluation)
        return gate_metric_first(names, settings.gate.metric, shape, settings.evaluation)

    def monitor_of(
        self, settings: Settings, train: pd.DataFrame, validation: pd.DataFrame
    ) -> Monitor:
        """Return the monitor of a training on the rows of a split: see `monitor`."""
        corpus = records_of(self.validation_corpus(settings, train, validation))
        shape = str(train["shape"].iloc[0])
        return self.monitor(settings, shape, records_of(validation), corpus)

    def monitor(
        self,
        settings: Settings,
        shape: str,
        validation: Sequence[Record],
        corpus: Sequence[Record],
    ) -> Monitor:
        """Return the metric of the validation rows that chooses weights and stops a training.

        Args:
            settings: All that can be set.
            shape: The shape of the rows that the model is judged by.
            validation: The validation rows.
            corpus: The rows of `validation_corpus`.

        Raises:
            ConfigError: The rows don't give the metric that is asked for.
        """
        monitors = self.monitors_by_gate(settings, shape, validation, corpus)
        chosen = self.section(settings).training.monitor
        return choose_monitor(monitors, chosen, self.name, shape, len(validation))

    def monitors_by_gate(
        self,
        settings: Settings,
        shape: str,
        validation: Sequence[Record],
        corpus: Sequence[Record],
    ) -> list[Monitor]:
        """Return what validation rows can be monitored by, the gate's metric first."""
        if self.monitors is None:
            return []
        monitors = self.monitors(shape, validation, corpus, settings.evaluation)
        return sorted(monitors, key=lambda monitor: monitor.metric != settings.gate.metric)

    def chosen_shapes(self, settings: Settings) -> tuple[str, ...]:
        """Return the shapes of the samples that the settings choose; an empty tuple means all."""
        objective = self.objective(settings)
        shapes = shapes_of_kind(self.kind)
        return tuple(shape.name for shape in shapes if shape.objective == objective)
