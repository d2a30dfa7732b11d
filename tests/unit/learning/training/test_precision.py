import logging

import pytest
import torch

from tunetrail.errors import ConfigError
from tunetrail.learning.devices import device_kind, to_device
from tunetrail.learning.training.precision import (
    has_bfloat16,
    resolve_precision,
    tf32_products,
)


@pytest.mark.parametrize("use_mixed_precision", [True, False])
def test_auto_on_a_cpu_is_float32(use_mixed_precision: bool) -> None:
    assert resolve_precision("auto", use_mixed_precision, "cpu") == "32-true"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_without_a_device_it_is_the_machines_own() -> None:
    assert resolve_precision("auto", True) == "32-true"
    with pytest.raises(ConfigError):
        resolve_precision("16-mixed", True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a machine with a GPU")
def test_auto_on_a_gpu_is_mixed_where_asked_for() -> None:
    assert resolve_precision("auto", True) in ("bf16-mixed", "16-mixed")
    assert resolve_precision("auto", False) == "32-true"
    assert resolve_precision("16-mixed", False) == "16-mixed"


def test_float16_on_a_cpu_names_field_value_and_way_out() -> None:
    message = (
        r"training\.precision must be .* on a CPU, got '16-mixed'.* Set training\.precision=auto"
    )
    with pytest.raises(ConfigError, match=message):
        resolve_precision("16-mixed", True, "cpu")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_an_explicit_precision_is_taken_and_a_slow_one_said(
    precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="tunetrail.learning.training.precision"):
        assert resolve_precision(precision, False, "cpu") == precision
    slow = precision.startswith("bf16") and not has_bfloat16("cpu")
    assert ["several times slower" in record.getMessage() for record in caplog.records] == [
        True
    ] * slow


def test_bfloat16_is_slow_on_a_cpu_without_its_instructions(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The CPU is another one here: torch is told what an older kind reports."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert resolve_precision("bf16-mixed", True, "cpu") == "bf16-mixed"
    assert [record.getMessage() for record in caplog.records] == [
        "training.precision=bf16-mixed: this CPU has no bfloat16 instructions, so the training will be several times "
        "slower than with training.precision=32-true"
    ]


@pytest.mark.parametrize(
    "capabilities",
    [{"avx512_bf16": True}, {"amx_bf16": True}, {"architecture": "arm64", "bf16": True}],
)
def test_bfloat16_instructions_are_found(
    capabilities: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bfloat16("cpu")


def test_a_training_on_the_cpu_has_the_precision_of_a_cpu_even_next_to_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_kind(accelerator) for accelerator in ("auto", "gpu", "cpu")] == [
        "cuda",
        "cuda",
        "cpu",
    ]
    assert resolve_precision("auto", True, device_kind("cpu")) == "32-true"


@pytest.mark.parametrize(
    ("precision", "device", "products"),
    [
        ("bf16-mixed", "cuda", "high"),
        ("16-mixed", "cuda", "high"),
        ("32-true", "cuda", "highest"),
        ("bf16-mixed", "cpu", "highest"),
    ],
)
def test_only_mixed_precision_on_a_gpu_multiplies_by_tf32(
    precision: str, device: str, products: str
) -> None:
    with pytest.raises(KeyError), tf32_products(precision, device):
        assert torch.get_float32_matmul_precision() == products
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_tensor_that_is_where_it_should_be_is_not_copied() -> None:
    tensor = torch.ones(3)
    assert to_device(tensor, "cpu") is tensor
    assert to_device(tensor, torch.device("meta")).device.type == "meta"
