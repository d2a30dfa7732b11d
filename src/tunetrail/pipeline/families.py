"""Model families: one record for everything that differs between kinds of models.

The pipeline, the node and the command line look a family up by its name, which is the model type of a request. A
further family is one more record, registered from anywhere.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.cache import ResultCache
from tunetrail.config import AUTO, EvaluationConfig, ModelSection, Settings
from tunetrail.data.lengths import TokenCounter
from tunetrail.data.rows import records_of
from tunetrail.deployment.flavors import EmbeddingFlavor, Flavor, LanguageModelFlavor
from tunetrail.errors import ConfigError, SampleError, did_you_mean
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
from tunetrail.pipeline.scoring import score_embedding_model, score_language_model
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

    Functions that work with a model take the learner first, then a model as the learner loads it.

    Attributes:
        name: The model type of requests, and the name of the registered model.
        kind: The kind of the samples that it learns from.
        section: Returns its section of the settings.
        catalog: The short names of its base models.
        flavor: How its models are written to the registry and read back.
        learner: From settings, the shape of the samples and a cache, returns what loads, trains and saves models.
        token_counter: From settings and the folder of a model, returns what counts tokens as the model does.
        row_vectors: Returns cheap vectors of texts, by which rows are checked before a training.
        score: Returns the scores of a model on held-out records.
        scorable: Returns for each record whether the model sees anything to score in it; None if it always does.
        encode: Returns vectors of texts as `query` or `document`, by which hard negatives are mined; None if its
            models don't give any.
        objective: Returns the objective that the settings choose, which decides the shapes that are learnt from;
            None for all shapes.
        objective_setting: The setting that chooses the objective.
        further_shapes: Returns the shapes that are trained on in addition to the chosen ones.
    """

    name: str
    kind: SampleKind
    section: Callable[[Settings], ModelSection]
    catalog: Catalog
    flavor: Flavor
    learner: Callable[[Settings, str, ResultCache | None], Learner]
    token_counter: Callable[[Settings, str], TokenCounter]
    row_vectors: Callable[[Any, Any, Sequence[str]], Vectors]
    score: Callable[[Any, Any, Sequence[Record], EvaluationConfig], Scores]
    scorable: Callable[[Any, Any, Sequence[Record]], Sequence[bool]] | None = None
    encode: Callable[[Any, Any, Sequence[str], str], Vectors] | None = None
    objective: Callable[[Settings], str | None] = lambda settings: None
    objective_setting: str = "objective"
    further_shapes: Callable[[Settings], Collection[str]] = lambda settings: ()

    def resolve_base(self, settings: Settings) -> ResolvedModel:
        """Find the configured base model, so that a wrong name fails before any work is done."""
        return resolve_model(self.section(settings).model, self.catalog)

    def scorable_rows(
        self, settings: Settings, learner: Any, models: Sequence[Any], rows: pd.DataFrame
    ) -> pd.DataFrame:
        """Return the rows in which every model sees something to score.

        Raises:
            SampleError: The length that models read cuts off all that could be scored.
        """
        if self.scorable is None:
            return rows
        records = records_of(rows)
        masks = [self.scorable(learner, model, records) for model in models]
        scorable = rows[np.logical_and.reduce(masks)].reset_index(drop=True)

        limit = f"{self.name}.max_length"
        cut_off = len(rows) - len(scorable)
        if cut_off:
            logger.warning(
                "%s: %s cuts off all that could be scored of %d rows", self.name, limit, cut_off
            )
        if scorable.empty:
            max_length = self.section(settings).max_length
            raise SampleError(
                f"{limit}={max_length} cuts off the outputs of all rows to be scored. Raise it."
            )
        return scorable

    def chosen_shapes(self, settings: Settings) -> tuple[str, ...]:
        """Return the shapes of the samples that the settings choose; an empty tuple means all."""
        objective = self.objective(settings)
        shapes = shapes_of_kind(self.kind)
        return tuple(shape.name for shape in shapes if shape.objective == objective)


_FAMILIES: dict[str, ModelFamily] = {}


def register_family(family: ModelFamily) -> ModelFamily:
    """Add a family, or replace the one of that name, and return it."""
    _FAMILIES[family.name] = family
    return family


def family_named(name: str) -> ModelFamily:
    """Return the family of a model type; raises `ConfigError` for an unknown one."""
    if name not in _FAMILIES:
        raise _unknown_model_type(name, [*_FAMILIES])
    return _FAMILIES[name]


def requested_families(model_type: str) -> tuple[ModelFamily, ...]:
    """Return the families behind the model type of a request, which may be `all`.

    Raises:
        ConfigError: The model type is neither a family's name nor `all`.
    """
    if model_type == ALL_FAMILIES:
        return tuple(_FAMILIES.values())
    if model_type not in _FAMILIES:
        raise _unknown_model_type(model_type, [*_FAMILIES, ALL_FAMILIES])
    return (_FAMILIES[model_type],)


def _unknown_model_type(name: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"model_type must be one of {', '.join(known)}, got {name!r}.{did_you_mean(name, known)}"
    )


def _embedding_learner(
    settings: Settings, shape: str, cache: ResultCache | None
) -> EmbeddingLearner:
    return EmbeddingLearner(config=settings.embedding, shape=shape, seed=settings.seed, cache=cache)


def _embedding_token_counter(settings: Settings, path: str) -> EmbeddingTokenCounter:
    config = settings.embedding
    return EmbeddingTokenCounter(
        path=path,
        max_length=config.max_length,
        query_prompt=config.query_prompt,
        document_prompt=config.document_prompt,
    )


def _encode(learner: EmbeddingLearner, model: Any, texts: Sequence[str], role: str) -> Vectors:
    return learner.vectors(model, texts, role=role)


def _language_model_learner(
    settings: Settings, shape: str, cache: ResultCache | None
) -> LanguageModelLearner:
    return LanguageModelLearner(config=settings.llm, seed=settings.seed, cache=cache)


def _language_model_token_counter(settings: Settings, path: str) -> LanguageModelTokenCounter:
    return LanguageModelTokenCounter(path=path, max_length=settings.llm.max_length)


def _language_model_objective(settings: Settings) -> str | None:
    return None if settings.llm.objective == AUTO else settings.llm.objective


EMBEDDING = register_family(
    ModelFamily(
        name="embedding",
        kind=SampleKind.EMBEDDING,
        section=lambda settings: settings.embedding,
        catalog=EMBEDDING_MODELS,
        flavor=EmbeddingFlavor(),
        learner=_embedding_learner,
        token_counter=_embedding_token_counter,
        row_vectors=EmbeddingLearner.vectors,
        score=score_embedding_model,
        encode=_encode,
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
        row_vectors=lambda learner, model, texts: mean_input_embeddings(model, texts),
        score=score_language_model,
        scorable=LanguageModelLearner.scorable,
        objective=_language_model_objective,
        objective_setting="llm.objective",
    )
)
