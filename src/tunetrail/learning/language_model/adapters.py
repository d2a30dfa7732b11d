"""Low-rank adapters of a language model by PEFT: added before training, merged after it.

The keyword arguments are the fields of `llm.adapter`.
"""

import importlib.util
import warnings
from collections.abc import Collection, Sequence

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    prepare_model_for_kbit_training,
    set_peft_model_state_dict,
)
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunetrail.config.language_model import ALL_LINEAR
from tunetrail.errors import ConfigError, TrainingError, did_you_mean


def quantization_config(kind: str) -> BitsAndBytesConfig | None:
    """Return the argument of `from_pretrained` for the base model of an adapter of this kind.

    For `qlora` it is 4-bit NormalFloat with quantised constants (Dettmers et al. 2023,
    arXiv:2305.14314); for all other kinds it is None, and the weights stay as they are.

    Raises:
        ConfigError: `qlora` without the package bitsandbytes or without a GPU.
    """
    if kind != "qlora":
        return None

    # All reasons in one message: whoever fixes only the first would meet the second.
    missing = []
    if importlib.util.find_spec("bitsandbytes") is None:
        missing.append("the package bitsandbytes")
    if not torch.cuda.is_available():
        missing.append("an NVIDIA GPU")
    if missing:
        raise ConfigError(
            "llm.adapter.kind must be lora, rslora, dora or none on a machine without "
            f"{' and '.join(missing)}, got 'qlora'. It runs after `pip install bitsandbytes` on a "
            "machine with an NVIDIA GPU."
        )

    # A GPU older than Ampere only emulates bfloat16, more slowly than it computes in float16.
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if has_bfloat16 else torch.float16,
    )


def with_adapter(
    model: PreTrainedModel,
    *,
    kind: str,
    rank: int,
    alpha: int,
    dropout: float,
    target_modules: Sequence[str] = (ALL_LINEAR,),
    initialisation: str = "default",
) -> PreTrainedModel | PeftModel:
    """Return the model with a new adapter and frozen weights; at first its outputs are unchanged.

    The adapter's first weights come from torch's generator.

    Args:
        model: The model, which is changed in place; for `qlora`, loaded with `quantization_config`.
        kind: `lora` (Hu et al. 2021), `rslora` (Kalajdzievski 2023), `dora` (Liu et al. 2024),
            `qlora`; `none` returns the model as it is.
        rank: Rank of the two matrices whose product is added to a weight.
        alpha: The product is scaled by alpha / rank, for `rslora` by alpha / sqrt(rank).
        dropout: Dropout on the adapter's input.
        target_modules: Names of linear layers, or `all-linear` for all except the output layer.
        initialisation: `default` and `orthogonal` leave the weights as they are; `pissa` (Meng et
            al. 2024) and `olora` (Büyükakyüz 2024) move each weight's leading part into the
            adapter.

    Raises:
        ConfigError: A target module isn't a linear layer of the model, or is its output layer.
    """
    if kind == "none":
        return model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_target_modules(model, target_modules),
        # True is PEFT's name for its default.
        init_lora_weights=initialisation == "default" or initialisation,  # type: ignore[arg-type]
        use_rslora=kind == "rslora",
        use_dora=kind == "dora",
        task_type="CAUSAL_LM",
    )
    if kind == "qlora":
        # PEFT would turn checkpointing on; here `training.memory` decides about it.
        model = prepare_model_for_kbit_training(  # type: ignore[no-untyped-call]
            model, use_gradient_checkpointing=False
        )
    return _wrap(model, config)


def merged(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the plain model with the adapter added to its weights; it can't be trained further.

    A model in 4 bits is converted to float32 first, so that the merged model computes what was
    trained. Adding the adapter to the original weights would not, nor would rounding the sum to 4
    bits.

    Raises:
        TrainingError: The adapter's weights aren't finite.
    """
    if not isinstance(model, PeftModel):
        return model

    if getattr(model.get_base_model(), "is_loaded_in_4bit", False):
        # `unload` throws the adapter away, so its weights are taken out first.
        config, adapter = model.peft_config["default"], get_peft_model_state_dict(model)
        plain: PreTrainedModel = model.unload().dequantize(dtype=torch.float32).float()
        model = _wrap(plain, config)
        set_peft_model_state_dict(model, adapter)

    try:
        # A safe merge tests each sum and raises ValueError before it overwrites a weight with NaN.
        return model.merge_and_unload(safe_merge=True)  # type: ignore[no-any-return]
    except ValueError as error:
        raise TrainingError(f"The adapter can't be merged: {error}") from error


def _wrap(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    with warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for an attribute under its old name.
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing", category=FutureWarning
        )
        # PEFT notices by itself that GPT-2's weights are transposed, and warns for each layer.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to", category=UserWarning)
        return get_peft_model(model, config)


def _target_modules(model: PreTrainedModel, names: Collection[str]) -> str | list[str]:
    """Return the target modules in PEFT's form, checked: PEFT ignores a name without a match."""
    if list(names) == [ALL_LINEAR]:
        return ALL_LINEAR

    modules = {path for path, _ in model.named_modules() if path}
    # The loss reads the head's weight itself, so an adapter on the head would be passed over.
    output = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    linear = set()
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not output:
            linear.add(path)

    known = sorted({path.rsplit(".", 1)[-1] for path in linear})
    for name in names:
        # PEFT matches a whole path or its last components, too.
        matching = {path for path in modules if path == name or path.endswith(f".{name}")}
        if not matching or not matching <= linear:
            raise ConfigError(
                f"llm.adapter.target_modules must be {ALL_LINEAR} or names of the model's linear "
                f"layers ({', '.join(known)}), got {name!r}.{did_you_mean(name, known)}"
            )
    return list(names)
