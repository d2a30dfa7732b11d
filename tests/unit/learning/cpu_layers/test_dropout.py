import pytest
import torch
from torch import nn

from tunetrail.learning.cpu_layers.dropout import CheapDropout, cheap_dropout, replace_dropout

COUNT = 400_003  # no multiple of four


@pytest.mark.parametrize("probability", [0.1, 0.25, 0.5, 0.9])
def test_cheap_dropout_keeps_its_share_and_the_mean(probability: float) -> None:
    torch.manual_seed(0)
    dropped = cheap_dropout(torch.full((COUNT,), 2.0), probability)

    survived = dropped != 0
    deviation = (probability * (1 - probability) / COUNT) ** 0.5
    assert float(survived.double().mean()) == pytest.approx(
        1 - probability, abs=4 * deviation + 2**-16
    )
    assert float(dropped[survived].min()) == pytest.approx(2.0 / (1 - probability), rel=1e-4)
    assert float(dropped.double().mean()) == pytest.approx(
        2.0, abs=2 * (4 * deviation + 2**-16) / (1 - probability)
    )


def test_cheap_dropout_drops_each_place_as_often_as_the_others() -> None:
    torch.manual_seed(0)
    survived = torch.stack(
        [cheap_dropout(torch.ones(4, 16), 0.3) != 0 for _ in range(4000)]
    ).double()

    assert float((survived.mean(dim=0) - 0.7).abs().max()) < 4.5 * (0.21 / 4000) ** 0.5

    pairs = torch.corrcoef(survived.flatten(1).T) - torch.eye(64, dtype=torch.float64)
    assert (
        float(pairs.abs().max()) < 5 / 4000**0.5
    )  # neighbours share a random number, and nothing else


def test_cheap_dropout_is_a_function_of_the_generator() -> None:
    values = torch.randn(5, 7)
    torch.manual_seed(3)

    one, second = cheap_dropout(values, 0.5), cheap_dropout(values, 0.5)

    torch.manual_seed(3)
    assert torch.equal(cheap_dropout(values, 0.5), one)
    assert not torch.equal(one, second)


@pytest.mark.parametrize("layout", ["plain", "transposed", "part"])
def test_cheap_dropouts_gradient_has_its_mask_and_scale(layout: str) -> None:
    values = torch.randn(6, 10)
    values = {"plain": values, "transposed": values.T, "part": values[:, 2:5]}[
        layout
    ].requires_grad_()
    torch.manual_seed(1)

    dropped = cheap_dropout(values, 0.4)

    direction = torch.randn(values.shape)
    (gradient,) = torch.autograd.grad((dropped * direction).sum(), values)
    scale = (dropped != 0) / (1 - round(0.4 * 2**16) / 2**16)
    torch.testing.assert_close(dropped, values * scale)
    torch.testing.assert_close(gradient, direction * scale)


def test_cheap_dropouts_gradient_is_the_numerical_one() -> None:
    values = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)

    def dropped(inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(2)
        return cheap_dropout(inputs, 0.5)

    assert torch.autograd.gradcheck(dropped, values)


def test_cheap_dropout_leaves_values_alone_where_nothing_is_dropped() -> None:
    values = torch.randn(4)
    assert cheap_dropout(values, 0.0) is values
    assert cheap_dropout(values, 0.5, training=False) is values
    assert bool((cheap_dropout(values, 1.0) == 0).all())
    assert cheap_dropout(torch.zeros(0, 3), 0.5).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_cheap_dropout_keeps_the_type(dtype: torch.dtype) -> None:
    assert cheap_dropout(torch.ones(9, dtype=dtype), 0.5).dtype == dtype


def test_replace_dropout_takes_the_place_of_every_dropout_and_of_nothing_else() -> None:
    module = nn.Sequential(
        nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.3), nn.Dropout1d(0.2)), nn.Dropout(0.1)
    )
    module[2].eval()
    names = list(module.state_dict())

    replace_dropout(module)

    assert list(module.state_dict()) == names

    inner, outer = module[1][0], module[2]
    assert (type(inner), inner.p, inner.training) == (CheapDropout, 0.3, True)
    assert (type(outer), outer.p, outer.training) == (CheapDropout, 0.1, False)
    assert type(module[1][1]) is nn.Dropout1d

    module.eval()
    values = torch.randn(3, 2)
    assert torch.equal(inner(values), values)
