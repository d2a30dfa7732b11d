import dataclasses
import importlib.util
import math
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from tunetrail.config.language_model import (
    ADAPTERS,
    AdapterConfig,
    LanguageModelConfig,
    PreferenceConfig,
)
from tunetrail.errors import ConfigError, TrainingError
from tunetrail.learning.language_model.adapters import merged, quantization_config, with_adapter
from tunetrail.learning.language_model.module import load_language_model

IDS = (torch.arange(48) * 7 % 250)[None]


def adapter(**changed: Any) -> dict[str, Any]:
    """The keyword arguments of an adapter, made as the learner makes them."""
    return dataclasses.asdict(AdapterConfig(**{"rank": 4, "alpha": 8, "dropout": 0.0, **changed}))


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS).logits
    return found


def trained(model: Any, steps: int = 2) -> None:
    model.train()
    optimizer = torch.optim.AdamW(
        [each for each in model.parameters() if each.requires_grad], lr=1e-2
    )
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("kind", "initialisation"),
    [
        ("lora", "default"),
        ("rslora", "default"),
        ("dora", "default"),
        ("lora", "orthogonal"),
        ("rslora", "pissa"),
        ("dora", "olora"),
    ],
)
def test_merged_model_equals_the_adapted_one(
    tiny_language_model: str, kind: str, initialisation: str
) -> None:
    base = load_language_model(tiny_language_model).eval()
    torch.manual_seed(0)
    dropout = 0.1 if initialisation == "default" else 0.0
    options = adapter(kind=kind, initialisation=initialisation, dropout=dropout)
    model = with_adapter(load_language_model(tiny_language_model), **options).eval()
    torch.testing.assert_close(logits(model), logits(base), atol=1e-5, rtol=0)
    trained(model)
    adapted = logits(model.eval())
    assert float((adapted - logits(base)).abs().max()) > 1e-2
    plain = merged(model)
    torch.testing.assert_close(logits(plain.eval()), adapted, atol=1e-5, rtol=0)
    assert type(plain) is type(base) and set(plain.state_dict()) == set(base.state_dict())


def test_only_the_adapter_is_trained(tiny_language_model: str) -> None:
    model = with_adapter(load_language_model(tiny_language_model), **adapter(kind="dora"))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert names and all("lora_" in name for name in names)
    layers = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_each_kind_scales_as_its_paper_says(tiny_language_model: str) -> None:
    def scaling(kind: str) -> float:
        model = with_adapter(
            load_language_model(tiny_language_model), **adapter(kind=kind, rank=16, alpha=8)
        )
        (scale,) = {
            each.scaling["default"] for each in model.modules() if isinstance(each, LoraLayer)
        }
        return float(scale)

    assert (scaling("lora"), scaling("dora"), scaling("rslora")) == (0.5, 0.5, 2.0)


def test_first_weights_follow_torchs_seed(tiny_language_model: str) -> None:
    def drawn(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        model = with_adapter(load_language_model(tiny_language_model), **adapter())
        return [each for name, each in model.named_parameters() if "lora_A" in name]

    one, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(*pair) for pair in zip(one, again, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_dropout_acts_in_training_only(tiny_language_model: str) -> None:
    model = with_adapter(load_language_model(tiny_language_model), **adapter(dropout=0.5))
    trained(model, steps=1)
    assert not torch.equal(logits(model), logits(model))
    model.eval()
    assert torch.equal(logits(model), logits(model))


def test_none_is_the_model_itself(tiny_language_model: str) -> None:
    model = load_language_model(tiny_language_model)
    assert with_adapter(model, **adapter(kind="none")) is model and merged(model) is model
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_named_targets_are_the_only_ones(tiny_language_model: str) -> None:
    options = adapter(target_modules=["q_proj", "layers.1.mlp.up_proj"])
    model = with_adapter(load_language_model(tiny_language_model), **options)
    names = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert {name.removeprefix("base_model.model.model.") for name in names} == {
        "layers.0.self_attn.q_proj",
        "layers.1.self_attn.q_proj",
        "layers.1.mlp.up_proj",
    }


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("q_prj", r"got 'q_prj'\. Did you mean 'q_proj'"),
        ("proj", "got 'proj'"),
        ("self_attn", "got 'self_attn'"),
        ("lm_head", "got 'lm_head'"),
        ("embed_tokens", "got 'embed_tokens'"),
    ],
)
def test_target_that_is_no_inner_linear_layer_is_refused(
    tiny_language_model: str, target: str, hint: str
) -> None:
    rule = (
        r"llm.adapter.target_modules must be all-linear or names of the model's linear layers "
        r"\(down_proj, gate_proj, "
    )
    with pytest.raises(ConfigError, match=rule + f".*{hint}"):
        with_adapter(
            load_language_model(tiny_language_model), **adapter(target_modules=["v_proj", target])
        )


def test_transposed_layers_of_gpt2_are_adapted_and_merged() -> None:
    torch.manual_seed(0)
    model = with_adapter(
        GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=260)), **adapter()
    )
    trained(model)
    adapted = logits(model.eval())
    torch.testing.assert_close(logits(merged(model).eval()), adapted, atol=1e-5, rtol=0)


def test_adapter_that_is_not_finite_is_not_merged(tiny_language_model: str) -> None:
    model = with_adapter(load_language_model(tiny_language_model), **adapter())
    with torch.no_grad():
        next(each for name, each in model.named_parameters() if "lora_B" in name).fill_(math.nan)
    with pytest.raises(TrainingError, match="The adapter can't be merged: NaNs detected"):
        merged(model)


@pytest.mark.parametrize("kind", [kind for kind in ADAPTERS if kind != "qlora"])
def test_only_qlora_loads_the_model_quantised(kind: str) -> None:
    assert quantization_config(kind) is None


def test_qlora_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    rule = "llm.adapter.kind must be lora, rslora, dora or none on a machine without .*an NVIDIA GPU, got 'qlora'"
    with pytest.raises(ConfigError, match=rule):
        quantization_config("qlora")


@pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is not None, reason="the package is there"
)
def test_qlora_needs_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(
        ConfigError, match="on a machine without the package bitsandbytes, got 'qlora'"
    ):
        quantization_config("qlora")


@pytest.mark.filterwarnings(
    "ignore"
)  # bitsandbytes warns of the kernels that it hasn't got on a CPU
def test_merged_qlora_equals_the_adapted_model_in_4_bits(
    tiny_language_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: True)
    quantised = quantization_config("qlora")
    monkeypatch.undo()
    assert (
        isinstance(quantised, BitsAndBytesConfig)
        and quantised.bnb_4bit_compute_dtype == torch.bfloat16
    )
    quantised.bnb_4bit_compute_dtype = torch.float32
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        tiny_language_model, quantization_config=quantised, dtype=torch.float32
    )
    torch.manual_seed(0)
    model = with_adapter(loaded, **adapter(kind="qlora"))
    assert isinstance(model, PeftModel)
    trained(model)
    with torch.enable_grad():  # without gradients, bitsandbytes computes in bfloat16 on a CPU
        adapted = model(input_ids=IDS).logits.detach()
    base = load_language_model(tiny_language_model).eval()
    assert float((adapted.cpu() - logits(base)).abs().max()) > 1e-2
    plain = merged(model).cpu()  # type: ignore[no-untyped-call]
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.float32}
    assert set(plain.state_dict()) == set(base.state_dict())
    torch.testing.assert_close(logits(plain.eval()), adapted.cpu(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (
            {"kind": "lroa"},
            "llm.adapter.kind must be one of lora, rslora, dora, qlora, none.* Did you mean 'lora'",
        ),
        (
            {"target_modules": []},
            r"target_modules must be \[all-linear\] or names .*kind=none trains all weights",
        ),
        (
            {"target_modules": [""]},
            r"llm.adapter.target_modules must be \[all-linear\] or names of linear layers",
        ),
        (
            {"target_modules": ["all-linear", "q_proj"]},
            r"llm.adapter.target_modules must be \[all-linear\] or names",
        ),
        (
            {"target_modules": ["q_proj", "q_proj"]},
            "llm.adapter.target_modules must be all different",
        ),
        (
            {"initialisation": "pisa"},
            "llm.adapter.initialisation must be one of .* Did you mean 'pissa'",
        ),
        (
            {"initialisation": "pissa"},
            "llm.adapter.dropout must be 0 with initialisation=pissa, got 0.05",
        ),
        (
            {"initialisation": "olora", "dropout": 0.0, "kind": "qlora"},
            "llm.adapter.kind must be lora, rslora or dora with initialisation=olora, got 'qlora'",
        ),
        (
            {"initialisation": "orthogonal", "rank": 3},
            "llm.adapter.rank must be even with initialisation=orthogonal",
        ),
    ],
)
def test_config_refuses_an_impossible_adapter(given: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        AdapterConfig(**given)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("beta", 0.0, "llm.preference.beta must be above 0 and finite"),
        ("beta", math.nan, "llm.preference.beta must be above 0 and finite"),
        ("beta", math.inf, "llm.preference.beta must be above 0 and finite"),
        (
            "loss_type",
            "sigmoud",
            "llm.preference.loss_type must be one of sigmoid, ipo.* Did you mean 'sigmoid'",
        ),
        (
            "supervised_weight",
            -1.0,
            r"llm.preference.supervised_weight must be at least 0 \(0: off\) and finite",
        ),
        (
            "supervised_weight",
            math.inf,
            r"llm.preference.supervised_weight must be at least 0 \(0: off\) and finite",
        ),
    ],
)
def test_config_refuses_an_impossible_preference(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        PreferenceConfig(**{name: value})


def test_config_of_a_whole_model_does_not_look_at_the_adapters_initialisation() -> None:
    config = LanguageModelConfig(adapter=AdapterConfig(kind="none", initialisation="pissa"))
    assert config.adapter.kind == "none" and config.preference == PreferenceConfig()
