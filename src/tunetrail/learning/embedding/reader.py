"""EmbeddingReader: loads embedding models and applies them.

It imports nothing that trains: Lightning's import takes longer than the checks of a small session.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import PreTrainedTokenizerBase

from tunetrail.config import EmbeddingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import ModelError
from tunetrail.learning.cpu_layers import optimise
from tunetrail.learning.devices import computing_device, placed_on
from tunetrail.learning.embedding.encoder import encode_with_prompt, transformer_of
from tunetrail.learning.load_errors import naming_broken_model
from tunetrail.learning.tokens.prompts import QUERY, configured_prompts, prompt_of

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingReader:
    """Loads embedding models and applies them.

    Attributes:
        config: The model and its prompts.
        trainer: The devices; models compute on the first.
    """

    config: EmbeddingConfig
    trainer: TrainerConfig

    def load(self, path: str) -> SentenceTransformer:
        """Load a model folder; its prompts become the configured ones."""
        model = load_embedding_model(path, self.config.max_length)
        set_prompts(model, self.config)
        return model

    def vectors(
        self, model: SentenceTransformer, texts: Sequence[str], *, role: str = QUERY
    ) -> NDArray:
        """Return the unit vectors of texts, each read after the model's own prompt.

        Args:
            model: The model.
            texts: The texts.
            role: `query` or `document`.

        Returns:
            float32 [texts, dimensions], in the order of the texts.
        """
        with placed_on(computing_device(self.trainer), model):
            return encode_with_prompt(model, texts, prompt_of(model, role))


def load_embedding_model(path: str, max_length: int | None = None) -> SentenceTransformer:
    """Load a local sentence-transformers folder onto the CPU.

    Only safetensors are read, and no remote code is run.

    Args:
        path: The model's folder.
        max_length: Longest text in tokens; None for the model's own limit.

    Raises:
        ModelError: The model has no tokenizer of transformers, as a model of static embeddings.
    """
    with naming_broken_model(path):
        model = SentenceTransformer(
            path,
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            # Whatever precision the folder is in: small updates would vanish in weights of 16 bits.
            model_kwargs={"use_safetensors": True, "dtype": torch.float32},
        ).float()
    if not isinstance(model.tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"{path} must be a model with a transformer, got {type(model[0]).__name__}. "
            "Choose another base model."
        )

    # Beyond its position embeddings a model can't read.
    if max_length is not None:
        config = getattr(transformer_of(model), "config", None)
        longest = getattr(config, "max_position_embeddings", None) or max_length
        model.max_seq_length = min(max_length, longest)
    optimise(model)
    return model


def set_prompts(model: SentenceTransformer, config: EmbeddingConfig) -> None:
    """Give a model the configured prompts, which are part of it and are saved with it."""
    model.prompts = {**configured_prompts(config)}
    # Or a text without a role would be read after the base model's own default prompt.
    model.default_prompt_name = None
