import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from tunetrail.learning.cpu_layers import linear as products
from tunetrail.learning.cpu_layers.linear import (
    FastLinear,
    has_faster_products,
    linear,
    linear_gelu,
    replace_linear,
)
from tunetrail.learning.torch_internals import onednn_linear

SHAPES = [(300, 64, 256), (300, 256, 64), (1, 512, 9000), (64, 3, 70_000)]
"""Rows, inputs, outputs; large enough for the other library."""


@pytest.fixture(params=["chosen", "intel", "amd", "torch"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The libraries that this machine takes, those of CPUs with AVX-512, and torch's own alone."""
    if request.param == "torch":
        monkeypatch.setattr(products, "has_faster_products", lambda: False)
    elif request.param != "chosen":
        monkeypatch.setattr(products, "has_full_mkl", lambda: request.param == "intel")
    return str(request.param)


def gradients(product: object, *tensors: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = product(*leaves)  # type: ignore[operator]
    signs = (
        torch.arange(output.numel()).mul(7919).remainder(3).sub(1).view_as(output)
    )  # exact in every type
    return [output.detach(), *torch.autograd.grad((output * signs).sum(), leaves)]


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_output_and_gradients_are_those_of_exact_arithmetic(
    library: str, rows: int, inputs: int, outputs: int, has_bias: bool
) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1, rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)]
    arguments = tensors if has_bias else tensors[:2]
    expected = gradients(nn.functional.linear, *(tensor.double() for tensor in arguments))

    for actual, exact in zip(gradients(linear, *arguments), expected, strict=True):
        assert actual.shape == exact.shape
        assert float((actual - exact).abs().max()) <= 1e-5 * max(1.0, float(exact.abs().max()))


@pytest.mark.parametrize("rows, inputs, outputs", SHAPES)
def test_gelu_of_a_product_is_that_of_exact_arithmetic(
    library: str, rows: int, inputs: int, outputs: int
) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)]
    product = nn.functional.linear(*(tensor.double() for tensor in tensors))
    exact = nn.functional.gelu(product)

    actual = linear_gelu(*tensors)

    assert float((actual - exact).abs().max()) <= 1e-5 * float(exact.abs().max())


def test_a_transposed_weight_is_taken_as_it_is(library: str) -> None:
    torch.manual_seed(0)
    values, weight = torch.randn(300, 256), torch.randn(256, 64)
    torch.testing.assert_close(linear(values, weight.T), values @ weight, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trained", ["weight", "values"])
def test_only_what_the_gradient_needs_is_kept(trained: str) -> None:
    values = torch.randn(300, 128, requires_grad=trained == "values")
    weight = torch.randn(256, 128, requires_grad=trained == "weight")
    saved_sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        saved_sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = linear(values, weight)
    output.sum().backward()
    assert saved_sizes == [values.numel() if trained == "weight" else weight.numel()]
    assert (values.grad is not None) == (trained == "values") and (weight.grad is not None) == (
        trained == "weight"
    )


@pytest.mark.skipif(not has_faster_products(), reason="no oneDNN here")
@pytest.mark.parametrize(
    ("is_intel", "outputs", "onednn_products"), [(True, 256, 0), (True, 9000, 1), (False, 256, 1)]
)
def test_a_weights_gradient_is_mkls_on_intel_unless_it_is_a_heads(
    is_intel: bool, outputs: int, onednn_products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Tensor] = []

    def multiply(*tensors: Tensor) -> Tensor:
        taken.append(tensors[0])
        return onednn_linear(*tensors)

    monkeypatch.setattr(products, "has_full_mkl", lambda: is_intel)
    monkeypatch.setattr(products, "onednn_linear", multiply)
    gradient = products.transposed_product(torch.ones(300, outputs), torch.ones(300, 64))

    assert torch.equal(gradient, torch.full((outputs, 64), 300.0))
    assert len(taken) == onednn_products


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_torchs(dtype: torch.dtype) -> None:
    values, weight = torch.randn(300, 128, dtype=dtype), torch.randn(256, 128, dtype=dtype)
    assert torch.equal(linear(values, weight), nn.functional.linear(values, weight))


def test_autocast_decides_the_type() -> None:
    layer = nn.Sequential(nn.Linear(256, 128))
    replace_linear(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(300, 256)).dtype is torch.bfloat16


def test_layers_keep_their_weights_and_names() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return input

    model = nn.ModuleDict({"plain": nn.Linear(4, 4), "own": Own(4, 4)})
    before = copy.deepcopy(model.state_dict())
    replace_linear(model)
    assert type(model["plain"]) is (FastLinear if has_faster_products() else nn.Linear)
    assert type(model["own"]) is Own
    after = model.state_dict()
    assert after.keys() == before.keys() and all(
        torch.equal(after[name], before[name]) for name in before
    )


def test_without_the_function_torch_goes_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(products, "onednn_linear", missing)
    assert not has_faster_products.__wrapped__()


_MANY_SIZES = """
import resource, sys, torch
from pathlib import Path
from tunetrail.learning.cpu_layers.linear import linear
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20
def multiply(sizes):
    for tokens in sizes:
        linear(torch.ones(tokens, 256), weight)
weight = torch.ones(1024, 256)
multiply(range(300, 500))
before = resident()
multiply(range(500, 900))
print(resident() - before)
"""


@pytest.mark.processes
@pytest.mark.skipif(
    not has_faster_products() or sys.platform != "linux", reason="no oneDNN here, or no /proc"
)
def test_ever_new_sizes_take_no_more_memory() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _MANY_SIZES], check=True, capture_output=True, text=True
    )
    assert int(run.stdout) < 100  # MiB; more than 200 where the caches have their usual size


@pytest.mark.processes
def test_a_cache_size_that_someone_chose_stays() -> None:
    code = (
        "import os; from tunetrail.learning.cpu_layers.linear import *; "
        "has_faster_products(); print(dict(os.environ))"
    )
    chosen = os.environ | {"LRU_CACHE_CAPACITY": "77"}
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=chosen
    )

    assert "'LRU_CACHE_CAPACITY': '77'" in run.stdout
