"""Trainings on a GPU: precision, optimizer, waits, memory, compiled layers, and 4-bit weights."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.gpu.trainings import losses_of, train_embedding, train_language, training, watched_steps
from torch.optim.optimizer import register_optimizer_step_post_hook

from tunetrail.config import AdapterConfig, BatchesConfig, MemoryConfig
from tunetrail.learning.devices import to_device
from tunetrail.learning.flops import measured_peak
from tunetrail.learning.out_of_memory import is_out_of_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*Synchronization debug mode is a prototype"),
]

Folder = Callable[..., str]
Train = Callable[..., Any]
FAMILIES = pytest.mark.parametrize("family", ["embedding", "language"])


@pytest.fixture
def path_and_train(family: str, encoder: Folder, decoder: Folder) -> tuple[str, Train]:
    """Folder of a tiny model, and the function that trains it."""
    if family == "embedding":
        dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
        return encoder("bert", **dropout), train_embedding
    return decoder("llama"), train_language


@FAMILIES
@pytest.mark.usefixtures("bfloat16")
def test_auto_trains_in_bf16_by_a_fused_optimizer_on_the_card(
    path_and_train: tuple[str, Train], tmp_path: Path
) -> None:
    path, train = path_and_train
    with watched_steps() as watched:
        result = train(path, tmp_path, training(), accelerator="auto")

    assert result.precision == "bf16-mixed"
    assert watched.devices == {"cuda"} and watched.fused == {True}
    losses = losses_of(result)
    assert watched.steps == len(losses) == 18 and losses[-3:].mean() < losses[:3].mean()


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("32-true", 1e-3), ("bf16-mixed", 5e-2), ("16-mixed", 5e-2)]
)
@FAMILIES
def test_losses_are_those_of_the_cpu(
    family: str,
    encoder: Folder,
    decoder: Folder,
    tmp_path: Path,
    precision: str,
    tolerance: float,
) -> None:
    # Without dropout, whose draws differ between devices.
    path, train = (
        (encoder("bert"), train_embedding)
        if family == "embedding"
        else (decoder("llama"), train_language)
    )
    expected = losses_of(
        train(path, tmp_path / "cpu", training(precision="32-true"), accelerator="cpu")
    )

    result = train(path, tmp_path / "gpu", training(precision=precision))

    losses = losses_of(result)
    assert result.precision == precision
    # fp16 may leave its first steps out, until its scale fits.
    first = 1 if precision == "16-mixed" else len(losses)
    torch.testing.assert_close(losses[:first], expected[:first], rtol=tolerance, atol=tolerance)
    assert losses[-3:].mean() < losses[:3].mean()


def test_fp16_has_no_fused_optimizer(encoder: Folder, tmp_path: Path) -> None:
    with watched_steps() as watched:
        train_embedding(encoder("bert"), tmp_path, training(precision="16-mixed"))

    assert watched.devices == {"cuda"} and watched.fused == {False}


@FAMILIES
def test_a_training_on_the_cpu_stays_there(
    path_and_train: tuple[str, Train], tmp_path: Path
) -> None:
    path, train = path_and_train
    with watched_steps() as watched:
        result = train(path, tmp_path, training(num_epochs=1), accelerator="cpu")

    assert watched.devices == {"cpu"} and result.precision == "32-true"


def test_a_copy_to_the_card_does_not_wait(card: torch.device) -> None:
    values = torch.arange(1000)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        copied = to_device(values, card)
        # The plain copy does wait, or this test would prove nothing.
        with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
            values.to(card)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert copied.device == card and torch.equal(copied.cpu(), values)


@FAMILIES
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_cpu_waits_for_the_card_once_per_step(
    path_and_train: tuple[str, Train], tmp_path: Path, accumulate: int
) -> None:
    """The guard looks at the gradient's norm; nothing else may look at anything."""
    path, train = path_and_train
    config = training(logging_steps=1000, batches=BatchesConfig(accumulate=accumulate))
    seen: list[int] = []

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def stepped(*_: Any) -> None:
            waits = [w for w in caught if "synchronizing CUDA operation" in str(w.message)]
            seen.append(len(waits))
            caught.clear()

        handle = register_optimizer_step_post_hook(stepped)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train(path, tmp_path, config)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            handle.remove()

    per_epoch = 48 // (8 * accumulate)
    assert len(seen) == 3 * per_epoch
    # The first step is reported, and a validation lies before the first step of an epoch.
    ordinary = [waits for step, waits in enumerate(seen) if step > 1 and step % per_epoch]
    assert set(ordinary) == {1}


def peak_of(train: Train, path: str, folder: Path, config: Any, **changed: Any) -> tuple[int, Any]:
    """Return the most memory that a training's steps have held, in bytes, and its losses."""
    result = train(path, folder, config, **changed)
    # The reporter begins the count after the machine's peak was measured.
    return torch.cuda.max_memory_allocated(), losses_of(result)


@FAMILIES
def test_gradient_checkpointing_saves_memory_and_changes_no_loss(
    family: str, encoder: Folder, decoder: Folder, tmp_path: Path
) -> None:
    if family == "embedding":
        path, train = encoder("bert", num_hidden_layers=12), train_embedding
    else:
        path, train = decoder("llama", num_hidden_layers=12), train_language
    rows = {"batch_size": 48, "num_epochs": 2, "precision": "32-true"}

    peak, losses = peak_of(train, path, tmp_path / "plain", training(**rows))
    lower_peak, same_losses = peak_of(
        train,
        path,
        tmp_path / "checkpointed",
        training(**rows, memory=MemoryConfig(gradient_checkpointing=True)),
    )

    assert lower_peak < 0.8 * peak
    torch.testing.assert_close(same_losses, losses, rtol=1e-4, atol=1e-4)


def test_gradcache_saves_memory_and_changes_no_loss(encoder: Folder, tmp_path: Path) -> None:
    path = encoder("bert", num_hidden_layers=12)
    config = training(batch_size=48, num_epochs=2, precision="32-true")

    peak, losses = peak_of(train_embedding, path, tmp_path / "whole", config)
    lower_peak, same_losses = peak_of(
        train_embedding, path, tmp_path / "pieces", config, mini_batch_size=6
    )

    assert lower_peak < 0.8 * peak
    torch.testing.assert_close(same_losses, losses, rtol=1e-3, atol=1e-3)


@FAMILIES
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_train_as_uncompiled_ones(
    family: str, encoder: Folder, decoder: Folder, tmp_path: Path
) -> None:
    from torch._dynamo.utils import counters

    path, train = (
        (encoder("bert"), train_embedding)
        if family == "embedding"
        else (decoder("llama"), train_language)
    )
    expected = losses_of(train(path, tmp_path / "plain", training(precision="32-true")))
    counters.clear()

    compiled = training(precision="32-true", memory=MemoryConfig(compile=True))
    losses = losses_of(train(path, tmp_path / "compiled", compiled))

    # Batches of 18 mixes of lengths: far fewer graphs, or every mix would have been compiled.
    assert 1 <= counters["stats"]["unique_graphs"] <= 16
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("bfloat16")
def test_qlora_trains_4_bit_weights_and_gives_a_plain_model(
    decoder: Folder, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    path = decoder("llama", hidden_size=64, intermediate_size=128)
    adapter = AdapterConfig(kind="qlora", rank=4)

    with watched_steps() as watched:
        result = train_language(path, tmp_path, training(learning_rate=1e-2), adapter=adapter)

    losses = losses_of(result)
    assert result.precision == "bf16-mixed" and watched.devices == {"cuda"}
    assert torch.isfinite(losses).all() and losses[-3:].mean() < losses[:3].mean()


def test_a_full_card_is_told_apart_from_other_errors(card: torch.device) -> None:
    with pytest.raises(torch.OutOfMemoryError) as error:
        torch.empty(2**46, dtype=torch.uint8, device=card)

    assert is_out_of_memory(error.value)


@pytest.mark.usefixtures("bfloat16")
def test_the_peak_of_bfloat16_is_above_that_of_float32() -> None:
    assert measured_peak(0.5, "cuda", torch.bfloat16) > 2 * measured_peak(0.5, "cuda")
