"""Row vectors: cheap vectors of texts, by which rows are checked before a training."""

import functools
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tunetrail.fingerprints import model_fingerprint

if TYPE_CHECKING:
    from tunetrail.learning.language_model.model import LanguageModel

NDArray = np.ndarray[Any, np.dtype[np.float32]]

_LIBRARIES = ("sentence-transformers", "transformers")


def mean_input_embeddings(model: "LanguageModel", texts: Sequence[str]) -> NDArray:
    """Return the mean of each text's input embeddings, which costs a look-up for each token.

    The common mean of all embeddings is subtracted: it is most of every such vector and tells no
    texts apart (Arora, Liang and Ma, A Simple but Tough-to-Beat Baseline for Sentence Embeddings,
    2017).

    Returns:
        Unit vectors, float32 [texts, dimensions]; a text without tokens has a vector of zeros.
    """
    # `Any`: transformers' stubs leave open whether the embeddings are a module or a tensor.
    weights: Any = model.model.get_input_embeddings().weight
    embeddings = weights.detach().float().cpu().numpy()
    common_mean = embeddings.mean(axis=0)

    vectors = np.zeros((len(texts), embeddings.shape[1]), dtype=embeddings.dtype)
    encoded = model.tokenizer(list(texts), add_special_tokens=False, verbose=False)
    for position, token_ids in enumerate(encoded["input_ids"]):
        if token_ids:
            vectors[position] = embeddings[token_ids].mean(axis=0) - common_mean

    # The small bound keeps the zeros of an empty text zero.
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def vectors_identity(path: str, reading: str) -> str:
    """Return what row vectors depend on besides their texts: equal identities give equal vectors.

    Args:
        path: The folder of the model.
        reading: What decides how the model reads texts, such as the identity of its token counter.
    """
    # Another release of a library may read texts or compute vectors in another way.
    versions = list(map(importlib.metadata.version, _LIBRARIES))
    return f"{reading}:{_model_fingerprint(path)}:{versions}"


# Reading gigabytes of weights takes seconds, and a run asks several times.
@functools.lru_cache(maxsize=4)
def _model_fingerprint(path: str) -> str:
    return model_fingerprint(Path(path))
