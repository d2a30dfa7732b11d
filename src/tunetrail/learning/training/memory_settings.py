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
    """Let a model keep only each layer's input for the backward pass, and compute the rest a second time there.

    Gradients stay the same, dropout included. Works for a sentence-transformers model, a causal language model and a
    PEFT model around one, and only in training mode.

    Raises:
        ConfigError: The model's kind can't do it.
    """
    for transformer in transformers_in(model):
        if not transformer.supports_gradient_checkpointing:
            raise ConfigError(
                "training.memory.gradient_checkpointing must be false for this model: "
                f"{type(transformer).__name__} doesn't support it."
            )
        # transformers 5.23 has renamed it
        enable = getattr(transformer, "activation_checkpointing_enable", None) or (
            transformer.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
        # only reentrant checkpointing needs embeddings with a gradient; without the hook, frozen ones cost nothing
        transformer.disable_input_require_grads()  # type: ignore[no-untyped-call]


def compile_model(model: nn.Module) -> None:
    """Have the layers of a model compiled by torch when they first run; names of weights stay as they are.

    The layers share their compiled code, one by one: sentence-transformers calls a model's `forward` past what
    `Module.compile` makes of the whole. Attention within segments stays as it is, or every new mix of lengths would
    compile again. The first steps still take half a minute, and a C++ compiler is needed on a CPU.

    Raises:
        ConfigError: The model has no numbered layers.
    """
    found = numbered_layers(model)
    if found is None:
        raise ConfigError(
            "training.memory.compile must be false for a model without numbered layers, "
            f"and {type(model).__name__} has none."
        )
    if any(getattr(layer, "gradient_checkpointing", False) for layer in found[1]):
        logger.warning(
            "training.memory.compile does nothing for layers with gradient_checkpointing; they aren't compiled"
        )
        return
    AttentionInterface.register(SEGMENT_ATTENTION, torch.compiler.disable(segment_attention))  # type: ignore[no-untyped-call]
    for layer in found[1]:
        layer.compile(dynamic=True)


def undo_compile(model: nn.Module) -> None:
    """Let the layers that `compile_model` has compiled run as they are."""
    for layer in model.modules():
        layer._compiled_call_impl = None  # torch has no way back of its own


def transformers_in(model: nn.Module) -> list[PreTrainedModel]:
    """Return the outermost transformers models of a module, whatever wraps them.

    Raises:
        ConfigError: There is none.
    """
    if isinstance(model, PreTrainedModel):
        return [model]
    found = [
        (name, each) for name, each in model.named_modules() if isinstance(each, PreTrainedModel)
    ]
    outermost = [
        each
        for name, each in found
        if not any(name.startswith(f"{other}.") for other, _ in found if other != name)
    ]
    if not outermost:
        raise ConfigError(
            "training.memory.gradient_checkpointing must be false for a model without a transformer, "
            f"and {type(model).__name__} has none."
        )
    return outermost
