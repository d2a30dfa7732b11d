"""EmbeddingLearner: everything that the pipeline asks of an embedding model, in one place.

Takes plain records, gives back models and NumPy arrays; knows nothing of metrics, sessions or MLflow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from tunetrail.config import EmbeddingConfig, TrainingConfig
from tunetrail.errors import ConfigError, SampleError
from tunetrail.learning.callbacks import MetricsSink
from tunetrail.learning.embedding_data import EmbeddingDataModule, Record
from tunetrail.learning.embedding_losses import loss_name
from tunetrail.learning.embedding_module import EmbeddingModule, load_embedding_model
from tunetrail.learning.fitting import FitResult, fit

SHOWN_FROM = 500
"""Texts from which encoding shows a progress bar."""

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingLearner:
    """Loads, trains and applies embedding models for samples of one shape."""

    config: EmbeddingConfig
    shape: str
    seed: int

    def check(self, path: str, records: Sequence[Record]) -> None:
        """Raise `ConfigError` or `SampleError` where the model, the loss and the records don't fit together."""
        name = loss_name(self.shape, self.config.loss)
        if self.config.mini_batch_size and name not in ("multiple_negatives_ranking", "simcse"):
            raise ConfigError(
                f"embedding.mini_batch_size must be 0 for the loss {name}, got {self.config.mini_batch_size}."
            )
        if name == "cosine_similarity" and any(not -1.0 <= record["score"] <= 1.0 for record in records):
            raise SampleError("score must be between -1 and 1 for the loss cosine_similarity. Scale it, or use cosent.")
        if self.shape == "vector":
            dimensions = load_embedding_model(path).get_embedding_dimension()
            wrong = next((len(each["embedding"]) for each in records if len(each["embedding"]) != dimensions), None)
            if wrong is not None:
                raise SampleError(f"embedding must have the model's {dimensions} dimensions, got {wrong}.")

    def load(self, path: str) -> SentenceTransformer:
        """Load a model folder."""
        return load_embedding_model(path, self.config.max_length)

    def save(self, model: SentenceTransformer, folder: Path) -> None:
        """Write a model as a sentence-transformers folder."""
        model.save_pretrained(str(folder), create_model_card=False)

    def token_counts(self, path: str, texts: Sequence[Sequence[str]]) -> NDArray:
        """Return per row the tokens of its longest text, not cut off."""
        tokenizer = load_embedding_model(path).tokenizer
        counts = np.zeros(len(texts), dtype=np.int64)
        for number, row in enumerate(texts):
            if row:  # the tokenizer fails on none
                encoded = tokenizer(list(row), truncation=False, verbose=False)["input_ids"]
                counts[number] = max(len(ids) for ids in encoded)
        return counts

    def train(
        self,
        path: str,
        train: Sequence[Record],
        validation: Sequence[Record],
        training: TrainingConfig,
        *,
        folder: Path,
        on_metrics: MetricsSink,
        validate: bool = True,
    ) -> tuple[SentenceTransformer, FitResult]:
        """Fine-tune the model of the folder `path` and return it with what the training did."""
        module = EmbeddingModule(
            model=path,
            shape=self.shape,
            loss=self.config.loss,
            max_length=self.config.max_length,
            mini_batch_size=self.config.mini_batch_size,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
            warmup_steps=training.warmup_steps,
            schedule=training.schedule,
        )
        data = EmbeddingDataModule(
            train=train,
            validation=validation,
            shape=self.shape,
            preprocess=module.model.preprocess,
            batch_size=training.batch_size,
            seed=self.seed,
        )
        result = fit(module, data, training, seed=self.seed, folder=folder, on_metrics=on_metrics, validate=validate)
        return module.model.cpu().eval(), result

    def vectors(self, model: SentenceTransformer, texts: Sequence[str], batch_size: int) -> NDArray:
        """Return the unit vectors of the texts, float32 [texts, dimensions]."""
        long = len(texts) > SHOWN_FROM
        encoded = model.encode(list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=long)
        return np.asarray(encoded, dtype=np.float32)
