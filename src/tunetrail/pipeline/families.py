"""Model families: one record for everything that differs between kinds of models.

The pipeline and the node look a family up by its name, which is the model type of
a request. A further family is one more record, registered from anywhere; an installed package
names its own as an entry point.
"""

import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.cache import ResultCache
from tunetrail.config import (
    AUTO,
    FAMILY_ENTRY_POINTS,
    EvaluationConfig,
    ModelSection,
    Settings,
)
from tunetrail.config.checks import check
from tunetrail.data.lengths import TokenCounter
from tunetrail.data.rows import records_of
from tunetrail.deployment.flavors import EmbeddingFlavor, Flavor, LanguageModelFlavor
from tunetrail.errors import ConfigError, SampleError, did_you_mean, one_line
from tunetrail.evaluation.scores import Scores
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.learner import Learner
from tunetrail.learning.models.catalog import (
    EMBEDDING_MODELS,
    LANGUAGE_MODELS,
    Catalog,
    ResolvedModel,
    resolve_model,
)
from tunetrail.learning.row_vectors import mean_input_embeddings
from tunetrail.learning.tokens.token_counts import EmbeddingTokenCounter, LanguageModelTokenCounter
from tunetrail.learning.training.monitor import Monitor
from tunetrail.learning.training.sharding import FSDP, check_sharding
from tunetrail.pipeline.answers import add_answers
from tunetrail.pipeline.corpus_file import RANKED_SHAPES, with_documents
from tunetrail.pipeline.monitoring import (
    MetricNames,
    Monitors,
    choose_monitor,
    embedding_metrics,
    embedding_monitors,
    language_model_metrics,
    language_model_monitors,
)
from tunetrail.pipeline.scoring import (
    RememberingLearner,
    draw_by_content,
    embedding_corpus,
    primary_embedding_scores,
    query_vectors,
    score_embedding_model,
    score_language_model,
)
from tunetrail.samples import SampleKind, shapes_of_kind

logger = logging.getLogger(__name__)

ALL_FAMILIES = "all"
"""The model type of a request for every family."""

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
        section: Returns its section of the settings.
        catalog: The short names of its base models.
        flavor: How its models are written to the registry and read back.
        learner: Takes settings, the shape of the samples and a cache; returns what loads, trains
            and saves models.
        token_counter: Takes settings and the folder of a model; returns what counts tokens as the
            model does.
        row_vectors: Takes texts; returns cheap vectors, by which rows are checked before a
            training.
        score: Takes held-out records, the records of the corpus and the settings of the evaluation;
            returns the scores.
        score_primary: Does the same, but computes no metric that takes more than the primary one;
            None if none does.
        remembering: Takes a learner; returns one that computes nothing of a text twice, to score
            one model on several folds. None if the folds of a model have nothing to share.
        corpus: Takes the train side and further rows of the session that aren't scored; returns
            the rows that the held-out ones are ranked against. None if nothing is ranked.
        add_answers: Takes held-out records, their scores and the settings of the evaluation;
            returns the scores with those of what the model writes. None if it writes nothing.
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
        check_sharding: Raises `ConfigError` if settings don't allow sharding the model's weights
            over several devices; None if no settings do.
    """

    name: str
    kind: SampleKind
    section: Callable[[Settings], ModelSection]
    catalog: Catalog
    flavor: Flavor
    learner: Callable[[Settings, str, ResultCache | None], Learner]
    token_counter: Callable[[Settings, str], TokenCounter]
    row_vectors: Callable[[Any, Any, Sequence[str]], Vectors]
    score: Callable[[Any, Any, Sequence[Record], Sequence[Record], EvaluationConfig], Scores]
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
    check_sharding: Callable[[Settings], None] | None = None

    def resolve_base(self, settings: Settings) -> ResolvedModel:
        """Find the configured base model; raises `UserError` or `ModelError` if there is none."""
        return resolve_model(self.section(settings).model, self.catalog)

    def comparing_learner(self, learner: Any, models: Sequence[Any], rows: pd.DataFrame) -> Any:
        """Return the learner that scores the same text of each row with all of the models."""
        if self.comparing is None:
            return learner
        return self.comparing(learner, models, records_of(rows))

    def scorable_rows(
        self, settings: Settings, learner: Any, models: Sequence[Any], rows: pd.DataFrame
    ) -> pd.DataFrame:
        """Return the rows in which every model sees something to score.

        Raises:
            SampleError: The length that models read cuts off the outputs of all rows.
        """
        if self.scorable is None:
            return rows
        # Scores are compared row by row, so the models need the same rows: a tokenizer of another
        # base model may leave room for an output that this one cuts off.
        records = records_of(rows)
        masks = [self.scorable(learner, model, records) for model in models]
        scorable = rows[np.logical_and.reduce(masks)].reset_index(drop=True)

        limit = f"{self.name}.max_length"
        cut_off = len(rows) - len(scorable)
        if cut_off:
            logger.warning(
                "%s: %d rows aren't scored, as %s cuts off their outputs", self.name, cut_off, limit
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
        chosen = self.section(settings).training.monitor
        return choose_monitor(self.monitors, chosen, self.name, shape, validation, corpus)

    def chosen_shapes(self, settings: Settings) -> tuple[str, ...]:
        """Return the shapes of the samples that the settings choose; an empty tuple means all."""
        objective = self.objective(settings)
        shapes = shapes_of_kind(self.kind)
        return tuple(shape.name for shape in shapes if shape.objective == objective)


# By name, in the order in which `all` trains them.
_FAMILIES: dict[str, ModelFamily] = {}


def register_family(family: ModelFamily) -> ModelFamily:
    """Add a family, or replace the one of that name, and return it."""
    _FAMILIES[family.name] = family
    return family


@functools.cache
def load_installed_families() -> None:
    """Register the families that installed packages name as entry points, once in a process.

    An entry point that can't be used is left out with a warning: a broken package must not stop the
    work with other families.
    """
    for entry_point in entry_points(group=FAMILY_ENTRY_POINTS):
        try:
            family = entry_point.load()
            if not isinstance(family, ModelFamily):
                raise TypeError(f"it must be a ModelFamily, got {family!r}")
            # Or a request for the entry point's name would find no family.
            if family.name != entry_point.name:
                raise ValueError(f"it must have the name of its family, {family.name!r}")
            register_family(family)

        # The import runs the package's own code, which may raise anything.
        except Exception as error:
            logger.warning(
                "the model family %s of the package %s is left out: %s. Update the package.",
                entry_point.name,
                entry_point.dist.name if entry_point.dist else "?",
                one_line(error),
            )


def family_named(name: str) -> ModelFamily:
    """Return the family of a model type; raises `ConfigError` for an unknown one."""
    if name not in _FAMILIES:
        load_installed_families()
    if name not in _FAMILIES:
        # The only place that finds out, so it also names what `requested_families` accepts.
        known = [*_FAMILIES, ALL_FAMILIES]
        raise ConfigError(
            f"model_type must be one of {', '.join(known)}, got {name!r}."
            f"{did_you_mean(name, known)}"
        )
    return _FAMILIES[name]


def requested_families(model_type: str) -> tuple[ModelFamily, ...]:
    """Return the family of a request's model type, or every family for `all`.

    Raises:
        ConfigError: The model type is neither a family's name nor `all`.
    """
    if model_type == ALL_FAMILIES:
        # In Python as on the command line, which has loaded them at its start.
        load_installed_families()
        return tuple(_FAMILIES.values())
    return (family_named(model_type),)


def _embedding_learner(
    settings: Settings, shape: str, cache: ResultCache | None
) -> EmbeddingLearner:
    return EmbeddingLearner(
        config=settings.embedding,
        shape=shape,
        seed=settings.seed,
        cache=cache,
        trainer=settings.trainer,
    )


def _embedding_token_counter(settings: Settings, path: str) -> EmbeddingTokenCounter:
    config = settings.embedding
    # A prompt is read before every text, so its tokens count against the maximum length.
    return EmbeddingTokenCounter(
        path=path,
        max_length=config.max_length,
        query_prompt=config.query_prompt,
        document_prompt=config.document_prompt,
    )


def _language_model_learner(
    settings: Settings, shape: str, cache: ResultCache | None
) -> LanguageModelLearner:
    # A language model reads the columns of a record, whatever the shape of the others.
    return LanguageModelLearner(
        config=settings.llm, seed=settings.seed, cache=cache, trainer=settings.trainer
    )


def _language_model_token_counter(settings: Settings, path: str) -> LanguageModelTokenCounter:
    llm = settings.llm
    return LanguageModelTokenCounter(path=path, max_length=llm.max_length, thoughts=llm.thoughts)


def _language_model_objective(settings: Settings) -> str | None:
    return None if settings.llm.objective == AUTO else settings.llm.objective


def _check_language_model_sharding(settings: Settings) -> None:
    check_sharding(settings.llm.training, "llm")
    check(
        settings.llm.adapter.kind != "qlora",
        "llm.adapter.kind",
        f"lora, rslora, dora or none with trainer.strategy={FSDP}",
        settings.llm.adapter.kind,
        "Change it, or set trainer=ddp: weights in 4 bits can't be sliced.",
    )


EMBEDDING = register_family(
    ModelFamily(
        name="embedding",
        kind=SampleKind.EMBEDDING,
        section=lambda settings: settings.embedding,
        catalog=EMBEDDING_MODELS,
        flavor=EmbeddingFlavor(),
        learner=_embedding_learner,
        token_counter=_embedding_token_counter,
        row_vectors=query_vectors,
        score=score_embedding_model,
        score_primary=primary_embedding_scores,
        # Nearly the same documents are ranked in all folds.
        remembering=lambda learner: RememberingLearner(learner=learner),
        corpus=embedding_corpus,
        encode=EmbeddingLearner.vectors,
        monitors=embedding_monitors,
        metrics=embedding_metrics,
        objective=lambda settings: settings.embedding.shape,
        objective_setting="embedding.shape",
        further_shapes=lambda settings: settings.embedding.also_train.losses,
    )
)

LLM = register_family(
    ModelFamily(
        name="llm",
        kind=SampleKind.LLM,
        section=lambda settings: settings.llm,
        catalog=LANGUAGE_MODELS,
        flavor=LanguageModelFlavor(),
        learner=_language_model_learner,
        token_counter=_language_model_token_counter,
        # Hidden states would cost a pass through the model for every row.
        row_vectors=lambda learner, model, texts: mean_input_embeddings(model, texts),
        score=score_language_model,
        add_answers=add_answers,
        scorable=LanguageModelLearner.scorable,
        comparing=LanguageModelLearner.comparing,
        token_texts=LanguageModelLearner.token_texts,
        monitors=language_model_monitors,
        metrics=language_model_metrics,
        # No `encode`: its models give no vectors of texts by which negatives could be mined.
        objective=_language_model_objective,
        objective_setting="llm.objective",
        # Chat logs with feedback have all three; the chats are learnt as if there were no verdicts.
        default_objective="supervised",
        check_sharding=_check_language_model_sharding,
    )
)
