"""Scoring: how the models of each family become scores on held-out rows."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from tunetrail.config import EvaluationConfig
from tunetrail.evaluation.scores import Scores, language_scores, preference_scores
from tunetrail.evaluation.scoring import score_embedding
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import (
    LanguageModel,
    LanguageModelLearner,
    Likelihoods,
)
from tunetrail.learning.tokens.chat import is_preference
from tunetrail.learning.tokens.prompts import DOCUMENT, QUERY

Record = Mapping[str, Any]


def score_embedding_model(
    learner: EmbeddingLearner, model: Any, records: Sequence[Record], config: EvaluationConfig
) -> Scores:
    """Score an embedding model with the metrics of the learner's sample shape."""
    # The model's own prompts go before the texts, as an application will use it.
    encode_queries = partial(learner.vectors, model, role=QUERY)
    encode_documents = partial(learner.vectors, model, role=DOCUMENT)
    return score_embedding(learner.shape, records, encode_queries, encode_documents)


def score_language_model(
    learner: LanguageModelLearner,
    model: LanguageModel,
    records: Sequence[Record],
    config: EvaluationConfig,
) -> Scores:
    """Score a language model by the likelihoods of what the records teach it to write."""
    # Preferences aren't mixed with texts, so one of them tells about all.
    if any(map(is_preference, records)):
        likelihoods = learner.preference_likelihoods(model, records, config.batch_size)
        chosen, rejected = map(_scores_of, likelihoods)
        return preference_scores(chosen, rejected).identified(records)

    return _scores_of(learner.likelihoods(model, records, config.batch_size)).identified(records)


def _scores_of(likelihoods: Likelihoods) -> Scores:
    return language_scores(likelihoods.nats, likelihoods.tokens, likelihoods.bytes)
