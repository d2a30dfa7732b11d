"""The teacher as a model: its vectors are computed once for all trainings that share a cache."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from tunetrail.cache import ResultCache
from tunetrail.fingerprints import model_fingerprint
from tunetrail.learning.devices import placed_on
from tunetrail.learning.embedding.encoder import encode_with_prompt
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.tokens.prompts import prompt_of

NDArray = np.ndarray[Any, np.dtype[Any]]

_PACKAGES = ("tunetrail", "sentence-transformers", "transformers")


@dataclass(frozen=True, kw_only=True)
class CachedTeacher:
    """An embedding model whose vectors are looked up before they are computed.

    Attributes:
        folder: The model's folder; it is only loaded if a vector is missing.
        max_length: Tokens after which a text is cut.
        device: Where the model computes.
        cache: Where its vectors are kept; None computes them for this training alone.
    """

    folder: str
    max_length: int
    device: torch.device
    cache: ResultCache | None

    def encode(self, texts: Sequence[str], role: str) -> NDArray:
        """Return the vectors of texts that are read as a `query` or a `document`.

        Returns:
            [texts, dimensions], not of unit length: the student's vectors are to be as long.
        """
        if self.cache is None:
            return self._compute(texts, role)
        return self.cache.array(
            "the teacher's vectors",
            *("teacher", self._identity, role, *texts),
            compute=lambda: self._compute(texts, role),
        )

    def _compute(self, texts: Sequence[str], role: str) -> NDArray:
        with placed_on(self.device, self._model):
            return encode_with_prompt(self._model, texts, prompt_of(self._model, role), unit=False)

    @cached_property
    def _model(self) -> SentenceTransformer:
        return load_embedding_model(self.folder, self.max_length)

    @cached_property
    def _identity(self) -> str:
        """Everything that the vectors depend on besides the texts and their role."""
        versions = list(map(importlib.metadata.version, _PACKAGES))
        fingerprint = model_fingerprint(Path(self.folder))
        return f"{fingerprint}:{self.max_length}:{self.device.type}:{versions}"
