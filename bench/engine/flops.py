"""Floating-point operations that a training needs, counted from shapes. Knows no machine and no trainer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_BACKWARD_TOO = 6
"""Per weight and token: a multiplication and an addition forward, and twice that backward."""
_INPUT_ONLY = 4
"""The same where the weight is frozen: no gradient of its own."""
_ATTENTION = 12
"""Per layer, hidden unit and pair of tokens: scores and weighted sum, forward and backward."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """What decides how much a token costs.

    Attributes:
        weights: Numbers in the layers' matrices; embedding tables, norms, biases and adapters don't
            count.
        adapter_weights: Numbers in the adapters' matrices; above 0, the others are frozen.
        layers: Layers with attention.
        hidden: Width of the attention, heads times their dimensions.
        head_weights: Numbers in the matrix of the language-model head, 0 without one.
    """

    weights: int
    layers: int
    hidden: int
    adapter_weights: int = 0
    head_weights: int = 0


def size_of(model: Any) -> ModelSize:
    """Return the size of a transformers model, a PEFT model around one, or the one inside a SentenceTransformer."""
    inner = model[0].auto_model if hasattr(model, "encode") else model
    config = inner.config
    weights = adapter_weights = 0
    for name, parameter in inner.named_parameters():
        if "lora_" in name:
            adapter_weights += parameter.numel()
        elif parameter.ndim >= 2 and not any(
            part in name for part in ("embed", "lm_head", "pooler")
        ):
            weights += parameter.numel()
    has_head = inner.get_output_embeddings() is not None
    return ModelSize(
        weights=weights,
        adapter_weights=adapter_weights,
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        head_weights=config.vocab_size * config.hidden_size if has_head else 0,
    )


def training_flops(size: ModelSize, lengths: Sequence[int], supervised: int = 0) -> float:
    """Return the operations of one forward and one backward pass over sequences of these lengths, without padding.

    6 N + 12 L H T per token, as Chowdhery et al. 2022 (PaLM, appendix B) count for the model-FLOPs
    utilisation; 4 instead of 6 for frozen weights, and the head only where something is learnt.
    What a trainer computes twice (recomputed activations, a cached loss) or for nothing (padding)
    doesn't count.

    Args:
        size: Of the model.
        lengths: Tokens per sequence.
        supervised: Tokens that go through the language-model head.
    """
    per_weight = _INPUT_ONLY if size.adapter_weights else _BACKWARD_TOO
    tokens = sum(lengths)
    matrices = tokens * (per_weight * size.weights + _BACKWARD_TOO * size.adapter_weights)
    attention = _ATTENTION * size.layers * size.hidden * sum(length * length for length in lengths)
    return float(matrices + attention + per_weight * size.head_weights * supervised)
