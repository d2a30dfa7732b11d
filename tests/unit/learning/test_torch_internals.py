from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModelForCausalLM, modeling_gguf_pytorch_utils

from tunetrail.learning.torch_internals import (
    attention_implementation,
    backward_pass_id,
    integer_product,
    onednn_linear,
    set_last_rates,
    undo_compile,
    without_gguf_bar,
)


def schedule() -> LambdaLR:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    return LambdaLR(optimizer, lambda step: 1.0 / (1 + step))


def test_backward_pass_id_differs_between_passes_and_is_negative_outside() -> None:
    ids = []
    weight = nn.Parameter(torch.ones(1))
    weight.register_hook(lambda gradient: ids.append(backward_pass_id()))

    for _ in range(2):
        weight.sum().backward()

    assert len(set(ids)) == 2 and min(ids) >= 0
    assert backward_pass_id() == -1


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="a torch without oneDNN")
def test_onednn_linear_is_a_linear_layer() -> None:
    torch.manual_seed(0)
    input, layer = torch.randn(5, 4), nn.Linear(4, 3)

    output = onednn_linear(input, layer.weight, layer.bias)

    torch.testing.assert_close(output, layer(input))


def test_integer_product_is_exact() -> None:
    torch.manual_seed(0)
    left, right = (torch.randint(-127, 128, size, dtype=torch.int8) for size in ((5, 64), (64, 8)))

    product = integer_product(left, right)

    assert product.dtype == torch.int32 and torch.equal(product, left.int() @ right.int())


def test_undo_compile_lets_the_layer_itself_run() -> None:
    layer = nn.Linear(2, 2)
    layer.compile(backend=lambda graph, inputs: lambda *arguments: (torch.zeros(1),))

    undo_compile(nn.Sequential(layer))

    inputs = torch.ones(1, 2)
    assert torch.equal(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))


def test_set_last_rates_is_what_get_last_lr_returns() -> None:
    scheduler = schedule()

    set_last_rates(scheduler, [0.25])

    assert scheduler.get_last_lr() == [0.25]


def test_attention_implementation_names_what_was_set(tiny_language_model: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_language_model)

    model.set_attn_implementation("eager")

    assert attention_implementation(model) == "eager"


def test_a_conversion_from_gguf_shows_no_bar_meanwhile(capsys: pytest.CaptureFixture[str]) -> None:
    conversion: Any = modeling_gguf_pytorch_utils
    with without_gguf_bar():
        assert list(conversion.tqdm([1, 2], desc="converting")) == [1, 2]
    assert capsys.readouterr().err == ""

    list(conversion.tqdm([1, 2], desc="converting"))
    assert "converting" in capsys.readouterr().err
