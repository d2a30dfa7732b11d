"""Where a learner's arrays become scores: the one place that knows both learners and metrics."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.config import EvaluationConfig
from tunetrail.data.rows import records_of
from tunetrail.errors import SampleError
from tunetrail.evaluation.scores import Scores, language_scores, preference_scores
from tunetrail.evaluation.scoring import score_embedding
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.learner import Learner
from tunetrail.learning.tokens.chat import is_preference
from tunetrail.learning.tokens.prompts import DOCUMENT, QUERY

logger = logging.getLogger(__name__)


def score(learner: Learner, model: Any, rows: pd.DataFrame, config: EvaluationConfig) -> Scores:
    """Score a model on rows that it was not trained on."""
    records = records_of(rows)
    if isinstance(learner, EmbeddingLearner):
        encode, encode_documents = (
            partial(learner.vectors, model, role=role) for role in (QUERY, DOCUMENT)
        )
        return score_embedding(learner.shape, records, encode, encode_documents)
    assert isinstance(learner, LanguageModelLearner)
    if any(map(is_preference, records)):
        sides = learner.preference_likelihoods(model, records, config.batch_size)
        chosen, rejected = (language_scores(side.nats, side.tokens, side.bytes) for side in sides)
        return preference_scores(chosen, rejected).identified(records)
    found = learner.likelihoods(model, records, config.batch_size)
    return language_scores(found.nats, found.tokens, found.bytes).identified(records)


def scorable_by_all(learner: Learner, models: Sequence[Any], rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of which every model sees something to score: the length may cut off a whole output."""
    if not isinstance(learner, LanguageModelLearner):
        return rows
    masks = [learner.scorable(model, records_of(rows)) for model in models]
    kept = rows[np.logical_and.reduce(masks)].reset_index(drop=True)
    if len(kept) < len(rows):
        logger.warning(
            "llm: llm.max_length cuts off all that could be scored of %d rows",
            len(rows) - len(kept),
        )
    if kept.empty:
        raise SampleError(
            f"llm.max_length={learner.config.max_length} cuts off the outputs of all rows to be scored. Raise it."
        )
    return kept
