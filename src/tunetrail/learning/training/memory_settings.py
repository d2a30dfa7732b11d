"""Apply `training.memory` to a model: gradient checkpointing, and compiled layers."""

import logging

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from tunetrail.errors import ConfigError
from tunetrail.learning.padding_free.attention import SEGMENT_ATTENTION, segment_attention
from tunetrail.learning.training.layers import numbered_layers

logger = logging.getLogger(__name__)


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Let a model store only each layer's input, and recompute the layer in the backward pass.

    Gradients stay the same, dropout included. Works for a sentence-transformers model, a causal
    language model and a PEFT model around one, and only in training mode.

    Raises:
        ConfigError: The model doesn't support it.
    """
    for transformer in transformers_in(model):
        if not transformer.supports_gradient_checkpointing:
            raise ConfigError(
                "training.memory.gradient_checkpointing must be false for this model: "
                f"{type(transformer).__name__} doesn't support it."
            )

        # transformers 5.23 has renamed the method.
        enable = getattr(transformer, "activation_checkpointing_enable", None) or (
            transformer.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
        # Only reentrant checkpointing needs embeddings with a gradient. Without this hook, frozen
        # embeddings cost nothing.
        transformer.disable_input_require_grads()  # type: ignore[no-untyped-call]


def compile_model(model: nn.Module) -> None:
    """Have torch compile the layers of a model when they first run; weights keep their names.

    The layers are compiled one by one and share their compiled code, because sentence-transformers
    calls a model's `forward` directly and so bypasses what `Module.compile` makes of the whole.
    Attention within segments stays uncompiled, or every new mix of lengths would compile it again.
    The first steps take half a minute, and on a CPU a C++ compiler is needed.

    Raises:
        ConfigError: The model has no numbered layers.
    """
    stack = numbered_layers(model)
    if stack is None:
        raise ConfigError(
            "training.memory.compile must be false for a model without numbered layers, "
            f"and {type(model).__name__} has none."
        )

    layers = stack[1]
    if any(getattr(layer, "gradient_checkpointing", False) for layer in layers):
        logger.warning(
            "training.memory.compile has no effect on layers with gradient_checkpointing; "
            "they aren't compiled"
        )
        return

    uncompiled = torch.compiler.disable(segment_attention)  # type: ignore[no-untyped-call]
    AttentionInterface.register(SEGMENT_ATTENTION, uncompiled)
    for layer in layers:
        layer.compile(dynamic=True)


def transformers_in(model: nn.Module) -> list[PreTrainedModel]:
    """Return the outermost transformers models of a module, whatever wraps them.

    Raises:
        ConfigError: There is none.
    """
    if isinstance(model, PreTrainedModel):
        return [model]

    # `named_modules` lists a module before its submodules.
    outermost: dict[str, PreTrainedModel] = {}
    for name, module in model.named_modules():
        is_nested = any(name.startswith(f"{outer}.") for outer in outermost)
        if isinstance(module, PreTrainedModel) and not is_nested:
            outermost[name] = module

    if not outermost:
        raise ConfigError(
            "training.memory.gradient_checkpointing must be false for a model without a "
            f"transformer, and {type(model).__name__} has none."
        )
    return list(outermost.values())
