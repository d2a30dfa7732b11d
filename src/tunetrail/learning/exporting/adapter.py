"""Adapter: what a language model has learnt since its base model, as a LoRA adapter of PEFT.

A version holds merged weights. If it and the roots before it were trained with LoRA, each weight's
difference from the base model is a product of two narrow matrices, which its singular value
decomposition gives back up to rounding.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from torch import Tensor

from tunetrail.errors import UserError
from tunetrail.learning.cpu_layers.linear import restore_linear
from tunetrail.learning.language_model.model import LanguageModel

_FIRST_RANK = 32
# Largest rest of a difference, as a share of the largest weight; float32 rounds to 6e-8.
_ROUNDING = 1e-6
_REFUSAL = (
    "was it trained without adapters, or with dora, qlora, pissa or olora? "
    "Export the model with --to merged."
)


def write_adapter(model: LanguageModel, base: LanguageModel, base_name: str, folder: Path) -> int:
    """Write the difference between a model and its base as a PEFT folder, and return its rank.

    Args:
        model: The model, adapters merged.
        base: The base model, which is changed.
        base_name: Name of the base model, for `PeftModel.from_pretrained` to find it.
        folder: The folder.

    Raises:
        UserError: The models differ in more than weights of linear layers, or by matrices of a
            high rank.
    """
    factors = _factors(model.model, base.model)
    rank = max(left.shape[1] for left, _ in factors.values())
    config = LoraConfig(
        r=rank,
        # The product is the whole difference: a scale of 1.
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=sorted(factors),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
    )
    restore_linear(base.model)
    adapted: Any = get_peft_model(base.model, config)

    state = {}
    for name, (left, right) in factors.items():
        padding = rank - left.shape[1]
        prefix = f"base_model.model.{name}"
        state[f"{prefix}.lora_A.weight"] = torch.nn.functional.pad(right, (0, 0, 0, padding))
        state[f"{prefix}.lora_B.weight"] = torch.nn.functional.pad(left, (0, padding))
    set_peft_model_state_dict(adapted, state)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    adapted.save_pretrained(str(folder), safe_serialization=True)
    return rank


def read_adapter(folder: Path, base: LanguageModel) -> LanguageModel:
    """Return a base model, which isn't changed, with an adapter on it."""
    adapted: Any = PeftModel.from_pretrained(copy.deepcopy(base.model), str(folder))
    return LanguageModel(model=adapted.eval(), tokenizer=base.tokenizer)


def _factors(model: Any, base: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by module the two matrices, [out, rank] and [rank, in], of the weights that differ."""
    weights, base_weights = model.state_dict(), base.state_dict()
    linear = {name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
    factors = {}
    for name, weight in weights.items():
        base_weight = base_weights.get(name)
        if base_weight is None or base_weight.shape != weight.shape:
            raise UserError(
                f"a version must have its base model's weights to be exported as an adapter, got "
                f"another {name}. Export the model with --to merged."
            )
        if torch.equal(weight, base_weight):
            continue

        module = name.removesuffix(".weight")
        if module not in linear:
            raise UserError(
                f"a version must differ from its base model by adapters, got another {name}: "
                f"{_REFUSAL}"
            )
        factors[module] = _low_rank(name, weight.double(), base_weight.double())

    if not factors:
        raise UserError(
            "a version must differ from its base model to be exported as an adapter, got the same "
            "weights. Use the base model itself."
        )
    return factors


def _low_rank(name: str, weight: Tensor, base_weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of a difference, of the lowest power of two as rank that suffices."""
    difference = weight - base_weight
    tolerance = _ROUNDING * float(weight.abs().max())
    most = min(difference.shape) // 2
    rank = min(_FIRST_RANK, most)
    while rank:
        generator_state = torch.random.get_rng_state()
        left, values, right = torch.svd_lowrank(difference, q=rank, niter=4)
        torch.random.set_rng_state(generator_state)

        # Directions that only hold what rounding left would double the file for nothing.
        count = int((values > tolerance).sum())
        left, right = left[:, :count] * values[:count], right[:, :count].T
        if float((difference - left @ right).abs().max()) <= tolerance:
            return left.float().contiguous(), right.float().contiguous()
        if rank == most:
            break
        rank = min(2 * rank, most)
    raise UserError(
        f"a version must differ from its base model by adapters of a low rank, got a difference of "
        f"{name} of a rank above {most}: {_REFUSAL}"
    )
