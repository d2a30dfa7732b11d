"""The model families, by name: embedding models, language models, and what packages add.

The pipeline and the node look a family up by its name, which is the model type of a request. A
further family is one more record, registered from anywhere; an installed package names its own as
an entry point.
"""

import functools
import logging
from importlib.metadata import entry_points

from tunetrail.cache import ResultCache
from tunetrail.config import (
    AUTO,
    FAMILY_ENTRY_POINTS,
    Settings,
)
from tunetrail.config.checks import check
from tunetrail.deployment.flavors import EmbeddingFlavor, LanguageModelFlavor
from tunetrail.errors import ConfigError, did_you_mean, one_line
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.models.catalog import (
    EMBEDDING_MODELS,
    LANGUAGE_MODELS,
)
from tunetrail.learning.row_vectors import mean_input_embeddings
from tunetrail.learning.tokens.token_counts import EmbeddingTokenCounter, LanguageModelTokenCounter
from tunetrail.learning.training.sharding import FSDP, check_sharding
from tunetrail.pipeline.answers import add_answers
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.monitoring import (
    embedding_metrics,
    embedding_monitors,
    language_model_metrics,
    language_model_monitors,
)
from tunetrail.pipeline.scoring import (
    RememberingLearner,
    embedding_corpus,
    primary_embedding_scores,
    query_vectors,
    score_embedding_model,
    score_language_model,
)
from tunetrail.samples import SampleKind

logger = logging.getLogger(__name__)

ALL_FAMILIES = "all"
"""The model type of a request for every family."""

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
