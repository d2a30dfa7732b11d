"""Encoding a corpus: tunetrail's learner and `SentenceTransformer.encode`, each in a fresh process."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine.embedding import token_lengths
from bench.engine.rows import load_rows
from bench.memory import peak_resident

Encode = Callable[[list[str]], Any]
_WARMUP_TEXTS = 64


def encode_with_tunetrail(
    *, model: str, texts: str, max_length: int, batch_size: int, vectors: str, folder: str
) -> dict[str, Any]:
    """Encode by the learner that the pipeline uses; return texts/s and tokens/s.

    Args:
        model: Folder of the model.
        texts: JSONL file of rows with a `text`.
        max_length: Tokens; the rest of a text is cut off.
        batch_size: Texts per batch of the peer; tunetrail cuts batches by their tokens.
        vectors: File that the vectors go to.
        folder: Not used.
    """
    from tunetrail.config import EmbeddingConfig
    from tunetrail.learning.embedding.learner import EmbeddingLearner

    learner = EmbeddingLearner(config=EmbeddingConfig(max_length=max_length), shape="text", seed=0)
    loaded = learner.load(model)
    return _timed(
        loaded, texts, max_length, vectors, lambda listed: learner.vectors(loaded, listed)
    )


def encode_with_sentence_transformers(
    *, model: str, texts: str, max_length: int, batch_size: int, vectors: str, folder: str
) -> dict[str, Any]:
    """Encode by `SentenceTransformer.encode`; arguments as above."""
    from sentence_transformers import SentenceTransformer

    loaded = SentenceTransformer(model, device="cpu", local_files_only=True)
    loaded.max_seq_length = max_length

    def encode(listed: list[str]) -> Any:
        return loaded.encode(
            listed, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
        )

    return _timed(loaded, texts, max_length, vectors, encode)


def _timed(model: Any, texts: str, max_length: int, vectors: str, encode: Encode) -> dict[str, Any]:
    rows = load_rows(texts)
    listed = [row["text"] for row in rows]
    encode(listed[:_WARMUP_TEXTS])
    began = time.perf_counter()
    found = encode(listed)
    seconds = time.perf_counter() - began
    memory = peak_resident()
    np.save(Path(vectors), np.asarray(found, dtype=np.float32), allow_pickle=False)
    tokens = sum(token_lengths(model.tokenizer, rows, ("text",), max_length))
    return {
        "texts_per_second": len(listed) / seconds,
        "tokens_per_second": tokens / seconds,
        "memory": memory,
        "tokens": tokens,
    }
