"""Scoring: how the models of each family become scores on held-out rows."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tunetrail.config import EvaluationConfig
from tunetrail.data.rows import texts_of_rows
from tunetrail.evaluation.further_metrics import metrics_of_vectors
from tunetrail.evaluation.language_scores import language_scores, preference_scores, verdict_scores
from tunetrail.evaluation.metric import Needs
from tunetrail.evaluation.scores import UNSHARED_BYTES, Scores
from tunetrail.evaluation.scoring import score_embedding
from tunetrail.fingerprints import value_fingerprint
from tunetrail.learning.tokens.chat import is_judged, is_preference
from tunetrail.learning.tokens.prompts import DOCUMENT, QUERY

if TYPE_CHECKING:
    from tunetrail.learning.embedding.learner import EmbeddingLearner
    from tunetrail.learning.embedding.reader import EmbeddingReader
    from tunetrail.learning.language_model.learner import LanguageModelLearner
    from tunetrail.learning.language_model.likelihoods import Likelihoods
    from tunetrail.learning.language_model.model import LanguageModel

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RememberingLearner:
    """An embedding learner that encodes each text once, to score one model on several folds.

    Attributes:
        learner: The learner that encodes.
    """

    learner: "EmbeddingLearner"
    _vector_of: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def shape(self) -> str:
        """The shape of the samples."""
        return self.learner.shape

    def vectors(self, model: Any, texts: Sequence[str], *, role: str) -> Any:
        """Return the unit vectors of texts, [texts, dimensions]; the model is always the same."""
        new_texts = [text for text in texts if (role, text) not in self._vector_of]
        # Texts that are all new stay as they are: a learner that remembers nothing would make the
        # same batches, on which the last digits depend.
        if len(new_texts) < len(texts):
            new_texts = list(dict.fromkeys(new_texts))
        if new_texts:
            vectors = self.learner.vectors(model, new_texts, role=role)
            keys = zip([role] * len(new_texts), new_texts, strict=True)
            self._vector_of.update(zip(keys, vectors, strict=True))
        return np.stack([self._vector_of[role, text] for text in texts])


def query_vectors(
    reader: "EmbeddingReader | EmbeddingLearner | RememberingLearner",
    model: Any,
    texts: Sequence[str],
) -> Any:
    """Return the vectors of texts as queries: what the model itself finds similar, it confuses."""
    return reader.vectors(model, texts, role=QUERY)


def embedding_corpus(train: pd.DataFrame, further: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose texts an embedding model ranks in addition to the scored rows' own.

    Args:
        train: The train side; its rows have one shape.
        further: Rows of the session that are neither learnt from nor scored.
    """
    shape = train["shape"].iloc[0]
    # Labels are looked up among the texts whose labels an application knows.
    if shape == "label":
        return train
    if shape in ("pair", "text"):
        return pd.concat([train, further], ignore_index=True)
    return train.head(0)


def draw_by_content(rows: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return at most `limit` rows, chosen by a hash of their texts, in their order.

    So a row's chance doesn't depend on its place, and a growing session keeps most of its choice.
    """
    if len(rows) <= limit:
        return rows
    chosen = choose_by_content(texts_of_rows(rows), limit)
    return rows.iloc[chosen].reset_index(drop=True)


def choose_by_content(contents: Sequence[Any], limit: int) -> list[int]:
    """Return the positions of at most `limit` contents, chosen by their hashes, in order."""
    digests = list(map(value_fingerprint, contents))
    by_digest = sorted(range(len(digests)), key=digests.__getitem__)
    return sorted(by_digest[:limit])


def score_embedding_model(
    learner: "EmbeddingLearner | RememberingLearner",
    model: Any,
    records: Sequence[Record],
    corpus: Sequence[Record],
    config: EvaluationConfig,
    needs: Needs = lambda metric: True,
) -> Scores:
    """Score an embedding model with the metrics of the learner's sample shape.

    Args:
        learner: Encodes.
        model: The model.
        records: The held-out records.
        corpus: The records that these are ranked against in addition.
        config: The settings of the evaluation.
        needs: See `score_embedding`.
    """
    # The model's own prompts go before the texts, as an application will use it.
    encode_queries = partial(learner.vectors, model, role=QUERY)
    encode_documents = partial(learner.vectors, model, role=DOCUMENT)
    return score_embedding(
        learner.shape,
        records,
        encode_queries,
        encode_documents,
        corpus,
        cutoffs=config.cutoffs,
        needs=needs,
        further=metrics_of_vectors(config),
    )


def primary_embedding_scores(
    learner: "EmbeddingLearner",
    model: Any,
    records: Sequence[Record],
    corpus: Sequence[Record],
    config: EvaluationConfig,
) -> Scores:
    """Score an embedding model with the primary metric, and what takes no further time."""

    def needs_none(metric: str) -> bool:
        return False

    return score_embedding_model(learner, model, records, corpus, config, needs_none)


def score_language_model(
    learner: "LanguageModelLearner",
    model: "LanguageModel",
    records: Sequence[Record],
    corpus: Sequence[Record],
    config: EvaluationConfig,
) -> Scores:
    """Score a language model by the likelihoods of what the records teach it to write."""
    # Preferences aren't mixed with texts, so one of them tells about all.
    if any(map(is_preference, records)):
        likelihoods = learner.preference_likelihoods(model, records, config.batch_size)
        chosen, rejected = map(_scores_of, likelihoods)
        return preference_scores(chosen, rejected).identified(records)

    texts = learner.likelihoods(model, records, config.batch_size)
    if any(map(is_judged, records)):
        accepted = np.array([record["accepted"] for record in records], dtype=bool)
        return verdict_scores(_scores_of(texts), accepted).identified(records)
    return replace(_scores_of(texts), token_nats=texts.token_nats).identified(records)


def log_row_counts(name: str, scores: Scores) -> None:
    """Log how many rows of a side were scored: as a warning if some weren't.

    Args:
        name: The model type, or the fold.
        scores: The scores of the side.
    """
    is_whole = scores.scored_rows == scores.side_rows
    level = logging.INFO if is_whole else logging.WARNING
    logger.log(level, "%s: scored %d of %d rows", name, scores.scored_rows, scores.side_rows)


def _scores_of(likelihoods: "Likelihoods") -> Scores:
    scores = language_scores(
        likelihoods.nats,
        likelihoods.tokens,
        likelihoods.bytes,
        likelihoods.text_nats,
        likelihoods.hits,
    )
    if not likelihoods.unshared_bytes.any():
        return scores
    return scores.extended({UNSHARED_BYTES: likelihoods.unshared_bytes.astype(np.float64)})
