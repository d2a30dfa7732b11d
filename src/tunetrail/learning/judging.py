"""Vectors by which rows are judged before training: cheap ones of the model that will learn from them."""

import functools
import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunetrail.config import Settings
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.module import load_language_model, load_tokenizer

NDArray = np.ndarray[Any, np.dtype[np.float32]]


def judging_vectors(
    model_type: str, settings: Settings, path: str
) -> Callable[[Sequence[str]], NDArray]:
    """Return a function from texts to unit vectors, float32 [texts, dimensions], by the model of the folder `path`.

    An embedding model's own vectors; of a language model the mean of each text's input embeddings, which costs a
    look-up for each token.
    """

    def embedded(texts: Sequence[str]) -> NDArray:
        learner = EmbeddingLearner(config=settings.embedding, shape="text", seed=settings.seed)
        return learner.vectors(learner.load(path), texts)

    return (
        embedded if model_type == "embedding" else lambda texts: mean_input_embeddings(path, texts)
    )


def judging_identity(model_type: str, settings: Settings, path: str) -> str:
    """Return what the vectors depend on but the texts: the weights and how texts are read."""
    read = (
        [settings.embedding.max_length, settings.embedding.query_prompt]
        if model_type == "embedding"
        else []
    )
    versions = [
        importlib.metadata.version(name) for name in ("sentence-transformers", "transformers")
    ]
    return f"{model_type}:{_model_digest(path)}:{read}:{versions}"


def mean_input_embeddings(path: str, texts: Sequence[str]) -> NDArray:
    """Return the mean of each text's input embeddings, less their common mean, as unit vectors [texts, dimensions].

    The common mean goes as in Arora, Liang and Ma, A Simple but Tough-to-Beat Baseline for Sentence Embeddings (2017):
    it is most of every such vector and tells nothing apart.
    """
    tokenizer = load_tokenizer(path)
    weights: Any = load_language_model(path).get_input_embeddings().weight
    table = weights.detach().numpy()
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    center = table.mean(axis=0)
    means = np.stack(
        [table[each].mean(axis=0) - center if each else np.zeros_like(center) for each in ids]
    )
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.maximum(norms, 1e-12), dtype=np.float32)


@functools.lru_cache(maxsize=4)
def _model_digest(path: str) -> str:
    digest = hashlib.sha256()
    for file in sorted(
        each for each in Path(path).rglob("*") if each.suffix in (".safetensors", ".json", ".txt")
    ):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
