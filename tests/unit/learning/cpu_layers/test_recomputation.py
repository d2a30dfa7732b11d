from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tunetrail.learning.cpu_layers.linear import has_faster_products, replace_linear
from tunetrail.learning.cpu_layers.llama_layers import replace_llama_layers
from tunetrail.learning.cpu_layers.recomputation import recomputable, save, saved

TOKENS, WIDTH, OUTPUTS = 64, 64, 1100  # large enough for the product that keeps by itself


class Layers(nn.Module):
    """Two linear layers behind a norm, as queries and keys are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = LlamaRMSNorm(WIDTH)
        nn.init.normal_(self.norm.weight)
        self.one, self.other = (nn.Linear(WIDTH, OUTPUTS, bias=False) for _ in range(2))

    def forward(self, values: Tensor) -> Tensor:
        normalized = self.norm(values)
        return self.one(normalized).sin() * self.other(normalized)


def lean() -> Layers:
    layers = Layers()
    replace_linear(layers)
    replace_llama_layers(layers)
    return layers


def values() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(1, TOKENS, WIDTH).requires_grad_()


def gradients(layers: Layers, inputs: Tensor, output: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(output.square().sum(), [inputs, *layers.parameters()]))


def kept_inputs(layers: Layers) -> int:
    """Numbers of the inputs' size that are kept for the backward pass, each storage once."""
    sizes: dict[int, int] = {}

    def see(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda tensor: tensor):
        output = layers(values())
    del output
    return list(sizes.values()).count(TOKENS * WIDTH)


@pytest.mark.skipif(not has_faster_products(), reason="torch's own product keeps its input")
def test_the_layers_behind_a_norm_keep_its_input_only() -> None:
    assert kept_inputs(Layers()) >= 2
    assert kept_inputs(lean()) == 1


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_are_those_of_the_layers_themselves(checkpointed: bool) -> None:
    plain, layers, inputs, same = Layers(), lean(), values(), values()

    output = checkpoint(layers, same, use_reentrant=False) if checkpointed else layers(same)
    for actual, expected in zip(
        gradients(layers, same, output), gradients(plain, inputs, plain(inputs)), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-3)


def test_the_last_user_lets_go_of_the_value() -> None:
    calls = []

    def twice(tensor: Tensor) -> Tensor:
        calls.append(1)
        return 2 * tensor

    source = torch.ones(3)
    value = recomputable(twice(source), twice, source)
    contexts = [SimpleNamespace(), SimpleNamespace()]
    tensors = [save(context, value) for context in contexts]
    assert all(tensor[0] is source for tensor in tensors)
    first = saved(contexts[0], tensors[0])
    assert saved(contexts[1], tensors[1]) is first
    assert len(calls) == 2  # once to make it, once again for both
    assert torch.equal(first, value)
    assert contexts[0].recomputation._value is None


def test_other_tensors_are_kept_themselves() -> None:
    context, tensor = SimpleNamespace(), torch.ones(2)
    (found,) = save(context, tensor)
    assert found is tensor and saved(context, (found,)) is tensor


def test_a_tensor_that_was_changed_in_place_is_kept_itself() -> None:
    context, source = SimpleNamespace(), torch.ones(2)
    value = recomputable(source * 2, lambda tensor: tensor * 2, source)
    value.mul_(3.0)
    (found,) = save(context, value)
    assert found is value and saved(context, (found,)) is value
