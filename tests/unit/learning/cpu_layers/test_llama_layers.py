import copy
import pickle
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from tunetrail.config import AdapterConfig
from tunetrail.learning.cpu_layers.llama_layers import replace_llama_layers, restore_llama_layers
from tunetrail.learning.language_model.adapters import with_adapter
from tunetrail.learning.language_model.module import load_language_model

WIDTH, INNER, TOKENS = 24, 64, 50


def feed_forward(activation: str = "silu") -> LlamaMLP:
    torch.manual_seed(0)
    return LlamaMLP(
        LlamaConfig(
            hidden_size=WIDTH, intermediate_size=INNER, num_attention_heads=2, hidden_act=activation
        )
    )


def norm() -> LlamaRMSNorm:
    torch.manual_seed(0)
    layer = LlamaRMSNorm(WIDTH, eps=1e-5)
    nn.init.normal_(layer.weight)
    return layer


def made_lean(layer: nn.Module) -> nn.Module:
    model = nn.Sequential(copy.deepcopy(layer))
    replace_llama_layers(model)
    return model[0]


def gradients(layer: nn.Module, values: Tensor) -> list[Tensor]:
    inputs = values.clone().requires_grad_()
    output = layer(inputs)
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    return [output, *torch.autograd.grad((output * weights).sum(), [inputs, *layer.parameters()])]


def kept_numbers(layer: nn.Module, values: Tensor) -> int:
    """Numbers kept for the backward pass, weights aside."""
    weights, saved = {parameter.data_ptr() for parameter in layer.parameters()}, {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = layer(values.clone().requires_grad_())
    del output
    return sum(saved.values())


@pytest.mark.parametrize(
    "layer, share", [(feed_forward(), 0.65), (norm(), 0.6)], ids=["SwiGLU", "RMSNorm"]
)
def test_a_lean_layer_keeps_less_and_has_the_same_gradients(layer: nn.Module, share: float) -> None:
    torch.manual_seed(1)
    values, lean = torch.randn(1, TOKENS, WIDTH), made_lean(layer)

    assert type(lean) is not type(layer)
    for actual, expected in zip(gradients(lean, values), gradients(layer, values), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert kept_numbers(lean, values) <= share * kept_numbers(layer, values)


def test_a_layer_that_would_give_something_else_stays_as_it_is() -> None:
    assert type(made_lean(feed_forward("gelu"))) is LlamaMLP

    class ShiftedRMSNorm(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states) + 1

    assert type(made_lean(ShiftedRMSNorm(WIDTH))) is ShiftedRMSNorm


def test_afterwards_the_layers_are_of_their_own_classes_again() -> None:
    model = nn.Sequential(feed_forward(), norm(), nn.Linear(WIDTH, WIDTH))
    classes = [type(layer) for layer in model]

    replace_llama_layers(model)

    assert type(model[0]) is not classes[0] and type(model[1]) is not classes[1]

    restore_llama_layers(model)
    assert [type(layer) for layer in model] == classes
    assert pickle.dumps(model)


def test_without_a_gradient_and_under_autocast_the_layers_own_forward_runs() -> None:
    layer, values = feed_forward(), torch.randn(1, TOKENS, WIDTH)
    lean = made_lean(layer)
    with torch.no_grad():
        assert torch.equal(lean(values), layer(values))
    with torch.autocast("cpu", torch.bfloat16):
        assert lean(values).dtype is torch.bfloat16
        assert torch.equal(lean(values), layer(values))


def test_adapters_of_the_lean_layers_get_their_gradients(tiny_language_model: str) -> None:
    torch.manual_seed(0)
    adapter = asdict(AdapterConfig(rank=4, alpha=8, dropout=0.0))
    model = with_adapter(load_language_model(tiny_language_model), **adapter)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)  # it begins with 0, and nothing would reach lora_A
    ids = torch.arange(10, 40)[None]

    def found() -> dict[str, Tensor]:
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {
            name: parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }

    expected = found()
    replace_llama_layers(model)
    assert any(type(layer).__name__ == "MemorySavingLlamaMLP" for layer in model.modules())
    lean = found()
    assert lean.keys() == expected.keys() and any("down_proj" in name for name in lean)
    for name, gradient in expected.items():
        torch.testing.assert_close(lean[name], gradient, rtol=1e-4, atol=1e-6)
