"""Memory that isn't there: a forward pass above so many tokens fails as torch fails, and the training goes on."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tunetrail.config import TrainingConfig
from tunetrail.config.training import BatchesConfig, GuardsConfig, OptimizerConfig
from tunetrail.errors import TrainingError
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.encoder import encode_texts, transformer_of
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fitting import FitResult, fit, optimization_settings
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.language_model.forward import decoder_of
from tunetrail.learning.language_model.module import LanguageModelModule, load_tokenizer
from tunetrail.learning.tokens.chat import tokenize_record
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training_plan import TrainingPlan

ERRORS: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
    ),
}
PAIRS = [
    {"anchor": f"question {n} {'why ' * (n % 5)}", "positive": f"it is {n * 7}"}
    | ({"negative": f"no, {n}"} if n % 3 else {})
    for n in range(16)
]
SCORES = [
    {"sentence1": f"one {n}", "sentence2": f"other {n * n}", "score": n / 16} for n in range(16)
]
LABELS = [{"text": f"text {n} of its kind", "label": "abcd"[n % 4]} for n in range(16)]


def limit_memory(
    model: nn.Module,
    tokens: int,
    kind: str = "cuda",
    when: Callable[[nn.Module], bool] = lambda model: True,
) -> list[int]:
    """Let forward passes of more than so many tokens fail; returns the sizes of those that did."""
    failed: list[int] = []

    forward = model.forward

    def limited(*arguments: Any, **keywords: Any) -> Any:
        size = keywords["input_ids"].numel()
        if size > tokens and when(model):
            failed.append(size)
            raise ERRORS[kind]()
        return forward(*arguments, **keywords)

    model.forward = limited  # type: ignore[method-assign]
    return failed


OPTIMIZATION = optimization_settings(TrainingConfig(warmup_steps=0))


def embedding(path: str, shape: str) -> EmbeddingModule:
    module = EmbeddingModule(model=path, shape=shape, optimization=OPTIMIZATION)
    return without_dropout(module)


def language(path: str) -> LanguageModelModule:
    module = LanguageModelModule(model=path, optimization=OPTIMIZATION)
    return without_dropout(module)


Module = TypeVar("Module", bound=nn.Module)


def without_dropout(module: Module) -> Module:
    for each in module.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    return module


def pairs(path: str, records: Any, shape: str, accumulate: int = 1) -> EmbeddingDataModule:
    return EmbeddingDataModule(
        train=records,
        validation=records,
        shape=shape,
        batch_size=8,
        batches=BatchesConfig(accumulate=accumulate),
    )


def examples(path: str, accumulate: int = 1) -> LanguageModelDataModule:
    tokenizer = load_tokenizer(path)
    found = [
        tokenize_record(
            tokenizer, {"input": f"say {n}", "output": "a" * (n % 5 + 1), "weight": 1.0 + n % 2}, 64
        )
        for n in range(16)
    ]
    return LanguageModelDataModule(
        train=found,
        validation=found[:8],
        batch_size=8,
        batches=BatchesConfig(accumulate=accumulate),
    )


def step(module: TrainedModule, data: Any, folder: Path) -> tuple[FitResult, dict[str, Tensor]]:
    """Take one step; returns its gradients, too."""
    gradients: dict[str, Tensor] = {}

    def keep(optimizer: Any) -> None:
        for name, weight in module.named_parameters():
            if weight.grad is not None:
                gradients[name] = weight.grad.clone()

    module.on_before_optimizer_step = keep  # type: ignore[method-assign]
    training = TrainingConfig(
        max_steps=1,
        warmup_steps=0,
        batches=data.batches,
        guards=GuardsConfig(preflight=False),
    )
    result = fit(
        module,
        data,
        training,
        TrainingPlan(folder=folder, on_metrics=lambda metrics, number: None, validate=False),
        seed=0,
    )
    return result, gradients


FILLER = 0.35
"""Of pieces of a few short texts, each filled up to a multiple of 8 tokens."""


def assert_same_step(
    one: tuple[FitResult, dict[str, Tensor]],
    other: tuple[FitResult, dict[str, Tensor]],
    filler: float = 0.0,
) -> None:
    """Compare two steps; `filler` is the share of computed tokens by which pieces may round up more than a batch."""
    assert one[1].keys() == other[1].keys() and one[1]
    for name, gradient in one[1].items():
        torch.testing.assert_close(other[1][name], gradient, rtol=1e-4, atol=1e-6)
    for metric in ("train/loss", "train/gradient_norm"):
        assert other[0].history[metric][0][1] == pytest.approx(
            one[0].history[metric][0][1], rel=1e-4
        )
    shares = [each.history["train/padding_share"][0][1] for each, _ in (one, other)]
    assert shares[0] <= shares[1] <= shares[0] + filler


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    ("shape", "records"), [("pair", PAIRS), ("score", SCORES), ("label", LABELS)]
)
def test_embedding_step_out_of_memory_has_the_same_gradient_in_pieces(
    tiny_embedding_model: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    accumulate: int,
    shape: str,
    records: Any,
) -> None:
    expected = step(
        embedding(tiny_embedding_model, shape),
        pairs(tiny_embedding_model, records, shape, accumulate),
        tmp_path,
    )
    module = embedding(tiny_embedding_model, shape)
    failed = limit_memory(transformer_of(module.model), 90, kind)
    found = step(module, pairs(tiny_embedding_model, records, shape, accumulate), tmp_path)
    assert failed and module.mini_batch_size in (1, 2, 4)
    assert_same_step(expected, found, FILLER)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    # Each attempt that fails halves the rows.
    assert len(warnings) == len(failed)
    assert warnings[-1] == (
        "out of memory: batches go through the model in mini-batches of "
        f"{module.mini_batch_size} rows from now on; gradients stay the same"
    )


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_memory_that_only_the_pass_with_gradients_lacks_is_found_there(
    tiny_embedding_model: str, tmp_path: Path, kind: str
) -> None:
    expected = step(
        embedding(tiny_embedding_model, "pair"),
        pairs(tiny_embedding_model, PAIRS, "pair", 2),
        tmp_path,
    )
    module = embedding(tiny_embedding_model, "pair")
    failed = limit_memory(
        transformer_of(module.model), 100, kind, when=lambda model: torch.is_grad_enabled()
    )
    assert_same_step(
        expected, step(module, pairs(tiny_embedding_model, PAIRS, "pair", 2), tmp_path), FILLER
    )
    assert failed


@pytest.mark.parametrize("accumulate", [1, 2])
def test_language_model_step_out_of_memory_has_the_same_gradient_in_pieces(
    tiny_language_model: str, tmp_path: Path, accumulate: int
) -> None:
    data = examples(tiny_language_model, accumulate)
    expected = step(language(tiny_language_model), data, tmp_path)
    module = language(tiny_language_model)
    failed = limit_memory(decoder_of(module.model), 100)
    assert_same_step(expected, step(module, examples(tiny_language_model, accumulate), tmp_path))
    assert failed and 1 <= module.mini_batch_size < 8


def test_later_steps_go_on_in_pieces(tiny_embedding_model: str, tmp_path: Path) -> None:
    module = embedding(tiny_embedding_model, "pair")
    failed = limit_memory(transformer_of(module.model), 90)
    fit(
        module,
        pairs(tiny_embedding_model, PAIRS, "pair"),
        TrainingConfig(num_epochs=3, warmup_steps=0),
        TrainingPlan(folder=tmp_path, on_metrics=lambda metrics, number: None),
        seed=0,
    )
    assert len(failed) <= 3
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    # A resumed training draws the same dropout.
    recovery = state["callbacks"]["LastCheckpoint"]["recovery"]
    assert recovery["mini_batch_size"] == module.mini_batch_size > 0


def test_full_memory_gives_the_weights_of_mini_batches_from_the_start(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    training = TrainingConfig(num_epochs=2, warmup_steps=0)

    def train(module: EmbeddingModule, name: str) -> None:
        plan = TrainingPlan(folder=tmp_path / name, on_metrics=lambda metrics, step: None)
        fit(module, pairs(tiny_embedding_model, PAIRS, "pair"), training, plan, seed=0)

    limited = embedding(tiny_embedding_model, "pair")
    limit_memory(transformer_of(limited.model), 90)
    train(limited, "limited")
    expected = embedding(tiny_embedding_model, "pair")
    expected.mini_batch_size = limited.mini_batch_size
    train(expected, "expected")

    assert limited.mini_batch_size > 0
    assert all(map(torch.equal, limited.parameters(), expected.parameters()))


def test_a_language_model_continues_in_smaller_parts(
    tiny_language_model: str, tmp_path: Path
) -> None:
    """A checkpoint of whole micro-batches continues with each cut into parts."""
    training = TrainingConfig(
        num_epochs=3, warmup_steps=0, optimizer=OptimizerConfig(name="sgd"), learning_rate=0.05
    )
    weights = []
    for limited in (False, True):
        module = language(tiny_language_model)
        if limited:
            # The memory is full from the second epoch on.
            limit_memory(
                decoder_of(module.model),
                100,
                when=lambda model, module=module: module.trainer.current_epoch > 0,
            )
        plan = TrainingPlan(folder=tmp_path / str(limited), on_metrics=lambda metrics, step: None)
        result = fit(module, examples(tiny_language_model), training, plan, seed=0)
        assert result.steps == 6
        weights.append([weight.detach().clone() for weight in module.parameters()])

    last = torch.load(tmp_path / "True" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["callbacks"]["LastCheckpoint"]["recovery"]["parts"] > 1
    for whole, parts in zip(*weights, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_one_row_that_does_not_fit_says_what_to_do(
    tiny_language_model: str, tmp_path: Path
) -> None:
    module = language(tiny_language_model)
    limit_memory(decoder_of(module.model), 10)
    message = r"one row alone doesn't fit into memory\. Lower max_length, or set training\.memory\.gradient_checkpoin"
    with pytest.raises(TrainingError, match=message):
        step(module, examples(tiny_language_model), tmp_path)


def test_other_errors_are_no_lack_of_memory(tiny_language_model: str, tmp_path: Path) -> None:
    module = language(tiny_language_model)

    def fail(*arguments: Any) -> None:
        raise RuntimeError("shapes differ")

    decoder_of(module.model).register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        step(module, examples(tiny_language_model), tmp_path)
    assert module.mini_batch_size == 0


@pytest.mark.parametrize("kind", ["language", "embedding"])
def test_validation_out_of_memory_has_the_same_loss_in_pieces(
    tiny_embedding_model: str, tiny_language_model: str, tmp_path: Path, kind: str
) -> None:
    losses = []
    for limited in (False, True):
        module: Any
        data: Any
        if kind == "language":
            module, data = language(tiny_language_model), examples(tiny_language_model)
            inner = decoder_of(module.model)
        else:
            module, data = (
                embedding(tiny_embedding_model, "pair"),
                pairs(tiny_embedding_model, PAIRS, "pair"),
            )
            inner = transformer_of(module.model)
        failed = limit_memory(inner, 100, when=lambda model: not model.training) if limited else []
        training = TrainingConfig(num_epochs=1, warmup_steps=0)
        result = fit(
            module,
            data,
            training,
            TrainingPlan(folder=tmp_path / str(limited), on_metrics=lambda metrics, number: None),
            seed=0,
        )
        losses.append(result.history["val/loss"][0][1])
    assert failed and module.mini_batch_size > 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_encoding_out_of_memory_gives_the_same_vectors(
    tiny_embedding_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    module = embedding(tiny_embedding_model, "pair").eval()
    texts = [f"a text {'of some length ' * (n % 7)}{n}" for n in range(40)]
    expected = encode_texts(module.encoder, texts)
    failed = limit_memory(transformer_of(module.model), 500)
    found = encode_texts(module.encoder, texts)
    assert failed
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert "out of memory: batches are computed in" in caplog.text
