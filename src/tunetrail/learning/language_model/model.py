"""A language model with its tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModel:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def last_logits(model: LanguageModel, texts: Sequence[str]) -> NDArray:
    """Return the logits after each text's last token, float64 [texts, vocabulary]."""
    rows = []
    for text in texts:
        # A model can't read a row without tokens.
        encoded = model.tokenizer(text or " ", truncation=True, max_length=128, return_tensors="pt")
        inputs = encoded.to(model.model.device)
        with torch.inference_mode():
            logits = model.model(**inputs, logits_to_keep=1).logits[0, -1]
        rows.append(logits.double().cpu().numpy())
    return np.stack(rows)
