"""The model families, by name: embedding models, language models, and what packages add.

The pipeline and the node look a family up by its name, which is the model type of a request. A
further family is one more record, registered from anywhere; an installed package names its own as
an entry point.

Learners are imported when they are first asked for: to prepare rows needs none of the libraries
that train models.
"""

from typing import TYPE_CHECKING

from tunetrail.cache import ResultCache
from tunetrail.config import (
    AUTO,
    Settings,
)
from tunetrail.config.checks import check
from tunetrail.deployment.flavors import EmbeddingFlavor, LanguageModelFlavor
from tunetrail.errors import ConfigError, did_you_mean
from tunetrail.evaluation.further_metrics import check_shape
from tunetrail.extensions import FAMILIES
from tunetrail.learning.embedding.quick_reader import quick_reader
from tunetrail.learning.models.catalog import (
    EMBEDDING_MODELS,
    LANGUAGE_MODELS,
)
from tunetrail.learning.row_vectors import mean_input_embeddings
from tunetrail.learning.tokens.token_counts import EmbeddingTokenCounter, LanguageModelTokenCounter
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

if TYPE_CHECKING:
    from tunetrail.learning.embedding.learner import EmbeddingLearner
    from tunetrail.learning.embedding.reader import EmbeddingReader
    from tunetrail.learning.language_model.learner import LanguageModelLearner

ALL_FAMILIES = "all"
"""The model type of a request for every family."""

# By name, in the order in which `all` trains them.
_FAMILIES: dict[str, ModelFamily] = {}


def register_family(family: ModelFamily) -> ModelFamily:
    """Add a family, or replace the one of that name, and return it."""
    _FAMILIES[family.name] = family
    return family


def is_built_in(name: str) -> bool:
    """Tell whether a model type is one of our own."""
    return name in (EMBEDDING.name, LLM.name, ALL_FAMILIES)


def is_installed(name: str) -> bool:
    """Tell whether another process finds the family: it is our own, or an installed package's."""
    return is_built_in(name) or name in FAMILIES.names()


def family_named(name: str) -> ModelFamily:
    """Return the family of a model type.

    Raises:
        ConfigError: There is none, two packages have one, or its package is broken.
    """
    installed = FAMILIES.names()
    FAMILIES.check_unique(name)
    if name in _FAMILIES:
        return _FAMILIES[name]
    if name in installed:
        return register_family(FAMILIES.load(name))

    # The only place that finds out, so it also names what `requested_families` accepts.
    known = list(dict.fromkeys([*_FAMILIES, *installed, ALL_FAMILIES]))
    raise ConfigError(
        f"model_type must be one of {', '.join(known)}, got {name!r}.{did_you_mean(name, known)}"
    )


def requested_families(model_type: str) -> tuple[ModelFamily, ...]:
    """Return the family of a request's model type, or every family for `all`.

    A family of an installed package that can't be used is left out of `all`, with a warning.

    Raises:
        ConfigError: The model type is neither a family's name nor `all`, or its package is broken.
    """
    if model_type != ALL_FAMILIES:
        return (family_named(model_type),)
    for family in FAMILIES.load_all():
        _FAMILIES.setdefault(family.name, family)
    return tuple(_FAMILIES.values())


def _embedding_learner(
    settings: Settings, shape: str, cache: ResultCache | None
) -> "EmbeddingLearner":
    from tunetrail.learning.embedding.learner import EmbeddingLearner

    # Before anything is trained, although the metrics come last. Without a shape, the learner only
    # encodes.
    if shape:
        check_shape(settings.evaluation, shape)
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


def _embedding_reader(settings: Settings) -> "EmbeddingReader":
    from tunetrail.learning.embedding.reader import EmbeddingReader

    return EmbeddingReader(config=settings.embedding, trainer=settings.trainer)


def _language_model_learner(
    settings: Settings, shape: str, cache: ResultCache | None
) -> "LanguageModelLearner":
    from tunetrail.learning.language_model.learner import LanguageModelLearner

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
    from tunetrail.learning.training.sharding import FSDP, check_sharding

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
        reader=_embedding_reader,
        row_reader=quick_reader,
        token_counter=_embedding_token_counter,
        row_vectors=query_vectors,
        score=score_embedding_model,
        score_primary=primary_embedding_scores,
        # Nearly the same documents are ranked in all folds.
        remembering=lambda learner: RememberingLearner(learner=learner),
        corpus=embedding_corpus,
        encode=lambda learner, model, texts, **role: learner.vectors(model, texts, **role),
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
        scorable=lambda learner, model, records: learner.scorable(model, records),
        comparing=lambda learner, models, records: learner.comparing(models, records),
        token_texts=lambda learner, model, record: learner.token_texts(model, record),
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
