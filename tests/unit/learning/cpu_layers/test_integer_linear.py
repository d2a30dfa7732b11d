import pytest
import torch
from torch import nn

from tunetrail.learning.cpu_layers.integer_linear import IntegerLinear


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_product_is_near_that_of_floats(rows: int) -> None:
    torch.manual_seed(0)
    layer, input = nn.Linear(48, 24), torch.randn(rows, 48)

    with torch.inference_mode():
        output = IntegerLinear(layer.weight, layer.bias)(input)
        expected = layer(input)

    error = float((output - expected).norm() / expected.norm())
    assert 0.0 < error < 0.02


def test_a_large_row_takes_no_precision_from_another() -> None:
    torch.manual_seed(0)
    layer, input = nn.Linear(48, 24), torch.randn(2, 48)
    product = IntegerLinear(layer.weight.detach(), layer.bias.detach())

    alone = product(input[:1])
    next_to_a_large_one = product(input * torch.tensor([[1.0], [1e4]]))[:1]

    torch.testing.assert_close(next_to_a_large_one, alone)


def test_a_row_of_zeros_gives_the_bias() -> None:
    bias = torch.tensor([1.0, -2.0, 0.5, 3.0] * 2)
    product = IntegerLinear(torch.ones(8, 16), bias)

    assert torch.equal(product(torch.zeros(3, 16)), bias.expand(3, -1))
