"""Memory that isn't there: a forward pass of more tokens than a limit fails as torch fails.

The training goes on from the last checkpoint, in mini-batches of half of the rows.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tunetrail.config import TrainingConfig
from tunetrail.config.training import (
    BatchesConfig,
    CheckpointsConfig,
    GuardsConfig,
    OptimizerConfig,
)
from tunetrail.errors import TrainingError
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.encoder import encode_texts, transformer_of
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.language_model.forward import decoder_of
from tunetrail.learning.language_model.module import LanguageModelModule, load_tokenizer
from tunetrail.learning.recovery.failures import FullMemoryError, Recovery, recovery_of
from tunetrail.learning.tokens.chat import tokenize_record
from tunetrail.learning.torch_internals import backward_pass_id
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training_plan import TrainingPlan

# Whole trainings.
pytestmark = pytest.mark.processes


class KilledError(Exception):
    """Ends a training from without."""


ERRORS: dict[str, Callable[[], Exception]] = {
    "killed": KilledError,
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
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
NO_PREFLIGHT = GuardsConfig(preflight=False)
ONE_STEP = TrainingConfig(max_steps=1, warmup_steps=0, guards=NO_PREFLIGHT)
EIGHT_STEPS = TrainingConfig(
    num_epochs=4,
    warmup_steps=0,
    learning_rate=1e-3,
    validations_per_epoch=1,
    guards=NO_PREFLIGHT,
)
"""Four epochs of two steps each; without accumulation."""


def limit_memory(
    model: nn.Module,
    tokens: int,
    kind: str = "cuda",
    when: Callable[[nn.Module], bool] = lambda model: True,
) -> list[int]:
    """Let forward passes of more tokens fail; returns the sizes of those that did."""
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


def once_at_step(module: TrainedModule, step: int) -> Callable[[nn.Module], bool]:
    """Return a condition that holds once, in the training's pass of an optimizer step."""
    has_held = False

    def condition(model: nn.Module) -> bool:
        nonlocal has_held
        holds = not has_held and model.training and module.trainer.global_step == step
        has_held = has_held or holds
        return holds

    return condition


def embedding(path: str, shape: str, training: TrainingConfig = ONE_STEP) -> EmbeddingModule:
    module = EmbeddingModule(model=path, shape=shape, optimization=optimization_settings(training))
    return without_dropout(module)


def language(path: str, training: TrainingConfig = ONE_STEP) -> LanguageModelModule:
    module = LanguageModelModule(model=path, optimization=optimization_settings(training))
    return without_dropout(module)


Module = TypeVar("Module", bound=nn.Module)


def without_dropout(module: Module) -> Module:
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return module


def pairs(records: Any = PAIRS, shape: str = "pair", accumulate: int = 1) -> EmbeddingDataModule:
    return EmbeddingDataModule(
        train=records,
        validation=records,
        shape=shape,
        batch_size=8,
        batches=BatchesConfig(accumulate=accumulate),
    )


def examples(
    path: str,
    accumulate: int = 1,
    *,
    rows: int = 16,
    tokens: int = 0,
    outputs: Sequence[int] = (1, 2, 3, 4, 5),
) -> LanguageModelDataModule:
    """Return examples whose outputs have these lengths, in turn."""
    tokenizer = load_tokenizer(path)
    tokenized = []
    for index in range(rows):
        output = "a" * outputs[index % len(outputs)]
        record = {"input": f"say {index}", "output": output, "weight": 1.0 + index % 2}
        tokenized.append(tokenize_record(tokenizer, record, 64))
    return LanguageModelDataModule(
        train=tokenized,
        validation=tokenized[:8],
        batch_size=8,
        batches=BatchesConfig(accumulate=accumulate, tokens=tokens),
    )


def trained(
    module: TrainedModule,
    data: Any,
    folder: Path,
    training: TrainingConfig = EIGHT_STEPS,
    *,
    validate: bool = True,
    resume: Path | None = None,
    recovery: Recovery | None = None,
) -> FitResult:
    plan = TrainingPlan(
        folder=folder,
        on_metrics=lambda metrics, step: None,
        validate=validate,
        resume=resume,
        recovery=recovery,
    )
    batches = replace(training.batches, accumulate=data.batches.accumulate)
    return fit(module, data, replace(training, batches=batches), plan, seed=0)


def step(module: TrainedModule, data: Any, folder: Path) -> tuple[FitResult, dict[str, Tensor]]:
    """Take one step; returns its gradients, too."""
    gradients: dict[str, Tensor] = {}
    configure = module.configure_optimizers

    def keep(optimizer: Any, arguments: Any, keywords: Any) -> None:
        for name, weight in module.named_parameters():
            if weight.grad is not None:
                gradients[name] = weight.grad.clone()

    def configured() -> Any:
        configuration = configure()
        configuration["optimizer"].register_step_post_hook(keep)
        return configuration

    module.configure_optimizers = configured  # type: ignore[method-assign]
    result = trained(module, data, folder, ONE_STEP, validate=False)
    return result, gradients


def last_of(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def assert_equal(found: nn.Module, expected: nn.Module, tolerance: float = 0.0) -> None:
    expected_weights = weights_of(expected)
    for name, weight in weights_of(found).items():
        torch.testing.assert_close(weight, expected_weights[name], rtol=0.0, atol=tolerance)


FILLER = 0.35
"""Of mini-batches of a few short texts, each filled up to a multiple of 8 tokens."""


def assert_same_step(
    one: tuple[FitResult, dict[str, Tensor]],
    other: tuple[FitResult, dict[str, Tensor]],
    filler: float = 0.0,
) -> None:
    """Compare two steps.

    `filler` is the share of computed tokens by which mini-batches may round up more than a batch.
    """
    assert one[1].keys() == other[1].keys() and one[1]
    for name, gradient in one[1].items():
        torch.testing.assert_close(other[1][name], gradient, rtol=1e-4, atol=1e-6)
    for metric in ("train/loss", "train/gradient_norm"):
        assert other[0].history[metric][0][1] == pytest.approx(
            one[0].history[metric][0][1], rel=1e-4
        )
    padding = [result.history["train/padding_share"][0][1] for result, _ in (one, other)]
    assert padding[0] <= padding[1] <= padding[0] + filler


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    ("shape", "records"), [("pair", PAIRS), ("score", SCORES), ("label", LABELS)]
)
def test_embedding_step_out_of_memory_has_the_same_gradient_in_mini_batches(
    tiny_embedding_model: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    accumulate: int,
    shape: str,
    records: Any,
) -> None:
    data = pairs(records, shape, accumulate)
    expected = step(embedding(tiny_embedding_model, shape), data, tmp_path)
    module = embedding(tiny_embedding_model, shape)
    failed = limit_memory(transformer_of(module.model), 90, kind)

    cut = step(module, pairs(records, shape, accumulate), tmp_path)

    assert failed and module.mini_batch_size in (1, 2, 4)
    assert_same_step(expected, cut, FILLER)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    sizes = {1: (4, 2, 1), 2: (4, 2), 4: (4,)}[module.mini_batch_size]
    # Each failure ends an attempt, and is told.
    assert warnings == [
        f"out of memory: batches go through the model in mini-batches of {size} rows from now on; "
        "gradients stay the same"
        for size in sizes
    ]


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_memory_that_only_the_backward_pass_lacks_is_found_there(
    tiny_embedding_model: str, tmp_path: Path, kind: str
) -> None:
    """A mini-batch's activations are computed again in the backward pass."""
    expected = step(embedding(tiny_embedding_model, "pair"), pairs(accumulate=2), tmp_path)
    module = embedding(tiny_embedding_model, "pair")
    module.mini_batch_size = 4
    failed = limit_memory(
        transformer_of(module.model), 60, kind, when=lambda model: backward_pass_id() >= 0
    )

    cut = step(module, pairs(accumulate=2), tmp_path)

    assert failed and module.mini_batch_size < 4
    assert_same_step(expected, cut, FILLER)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_language_model_step_out_of_memory_has_the_same_gradient_in_parts(
    tiny_language_model: str, tmp_path: Path, accumulate: int
) -> None:
    data = examples(tiny_language_model, accumulate)
    expected = step(language(tiny_language_model), data, tmp_path)
    module, cut_data = language(tiny_language_model), examples(tiny_language_model, accumulate)
    failed = limit_memory(decoder_of(module.model), 100)

    cut = step(module, cut_data, tmp_path)

    assert_same_step(expected, cut)
    assert failed and 1 <= module.mini_batch_size < 8
    assert cut_data.parts == 8 // module.mini_batch_size
    assert module.trainer.accumulate_grad_batches == accumulate * cut_data.parts


def killed_at(module: TrainedModule, data: Any, folder: Path, step: int, **settings: Any) -> None:
    """Train until an error in an optimizer step ends the training."""
    limit_memory(inner_of(module), 0, "killed", when=once_at_step(module, step))
    with pytest.raises(KilledError):
        trained(module, data, folder, **settings)


def inner_of(module: Any) -> nn.Module:
    """Return the transformer that computes the tokens."""
    if isinstance(module, EmbeddingModule):
        return transformer_of(module.model)
    return decoder_of(module.model)


def built(kind: str, paths: dict[str, str], training: TrainingConfig) -> tuple[Any, Any]:
    """Return a module and its data, of two batches per epoch."""
    if kind == "language":
        return language(paths[kind], training), examples(paths[kind])
    return embedding(paths[kind], "pair", training), pairs()


@pytest.fixture
def paths(tiny_embedding_model: str, tiny_language_model: str) -> dict[str, str]:
    return {"embedding": tiny_embedding_model, "language": tiny_language_model}


@pytest.mark.parametrize("kind", ["embedding", "language"])
def test_a_training_that_begins_with_a_full_memory_is_one_that_had_the_mini_batches_from_the_start(
    paths: dict[str, str], tmp_path: Path, kind: str
) -> None:
    recovery = Recovery(mini_batch_size=4, parts=2 if kind == "language" else 1)
    expected, data = built(kind, paths, EIGHT_STEPS)
    whole = trained(expected, data, tmp_path / "whole", recovery=recovery)
    module, data = built(kind, paths, EIGHT_STEPS)
    failed = limit_memory(inner_of(module), 0, when=once_at_step(module, 0))

    result = trained(module, data, tmp_path / "failed")

    assert len(failed) == 1
    assert (module.mini_batch_size, data.parts) == (4, recovery.parts)
    assert result.steps == whole.steps == 8
    assert_equal(module, expected)
    for name in ("train/loss", "val/loss"):
        assert result.history[name] == whole.history[name]


@pytest.mark.parametrize("kind", ["embedding", "language"])
@pytest.mark.parametrize("every_steps", [0, 1])
@pytest.mark.parametrize("fails_at", [1, 3, 6])
def test_after_a_full_memory_the_training_goes_on_from_the_last_checkpoint_in_mini_batches(
    paths: dict[str, str], tmp_path: Path, kind: str, every_steps: int, fails_at: int
) -> None:
    checkpoints = CheckpointsConfig(every_steps=every_steps)
    training = replace(EIGHT_STEPS, checkpoints=checkpoints)
    module, data = built(kind, paths, training)
    killed_at(module, data, tmp_path / "killed", fails_at, training=training)
    expected, data = built(kind, paths, training)
    last = last_of(tmp_path / "killed")
    recovery = Recovery(mini_batch_size=4, parts=2 if kind == "language" else 1)
    trained(
        expected,
        data,
        tmp_path / "killed",
        training,
        resume=last if last.exists() else None,
        recovery=recovery,
    )
    module, data = built(kind, paths, training)
    begun = begun_steps(module)
    failed = limit_memory(inner_of(module), 0, when=once_at_step(module, fails_at))

    result = trained(module, data, tmp_path / "failed", training)

    assert len(failed) == 1 and result.steps == 8
    # Without a checkpoint every step, there is one after each validation, which has two steps.
    saved = fails_at if every_steps else fails_at // 2 * 2
    assert begun == [*range(fails_at + 1), *range(saved, 8)]
    assert_equal(module, expected)
    assert [at for at, _ in result.history["val/loss"]] == [2, 4, 6, 8]
    assert [at for at, _ in result.history["train/loss"]] == [*range(1, 9)]


def begun_steps(module: Any) -> list[int]:
    """Return a list that receives the number of each optimizer step when its first rows come."""
    begun: list[int] = []
    original = module.training_step

    def training_step(batch: Any, batch_idx: int) -> Any:
        if batch_idx % module.trainer.accumulate_grad_batches == 0:
            begun.append(module.trainer.global_step)
        return original(batch, batch_idx)

    module.training_step = training_step
    return begun


SGD = replace(EIGHT_STEPS, optimizer=OptimizerConfig(name="sgd"), learning_rate=0.05, num_epochs=3)
"""Without Adam, whose first steps make rounding errors as large as gradients."""


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "stopped_at",
    [1, pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(4, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(("parts_before", "parts"), [(1, 2), (2, 1), (2, 3), (3, 5)])
def test_a_checkpoint_that_goes_on_in_other_parts_gives_the_same_weights(
    tiny_language_model: str,
    tmp_path: Path,
    accumulate: int,
    stopped_at: int,
    parts_before: int,
    parts: int,
) -> None:
    """An epoch has 20 rows: batches of 8, 8 and 4, of which 5 parts leave one empty."""
    training = replace(SGD, checkpoints=CheckpointsConfig(every_steps=1))

    def new() -> tuple[LanguageModelModule, LanguageModelDataModule]:
        data = examples(tiny_language_model, accumulate, rows=20)
        return language(tiny_language_model, training), data

    expected, data = new()
    whole = trained(expected, data, tmp_path / "whole", training)
    before = Recovery(parts=parts_before)
    killed_at(*new(), tmp_path / "cut", stopped_at, training=training, recovery=before)

    module, data = new()
    result = trained(
        module,
        data,
        tmp_path / "cut",
        training,
        resume=last_of(tmp_path / "cut"),
        recovery=Recovery(parts=parts),
    )

    assert (result.steps, data.parts) == (whole.steps, parts)
    assert_equal(module, expected, tolerance=1e-6)
    assert any(
        not torch.equal(weight, weights_of(language(tiny_language_model))[name])
        for name, weight in weights_of(module).items()
    )
    losses, expected_losses = result.history["val/loss"], whole.history["val/loss"]
    assert [at for at, _ in losses] == [at for at, _ in expected_losses]
    assert [loss for _, loss in losses] == pytest.approx(
        [loss for _, loss in expected_losses], rel=1e-5
    )


@pytest.mark.parametrize("kind", ["embedding", "language"])
def test_later_steps_and_resumed_trainings_keep_the_mini_batches(
    paths: dict[str, str], tmp_path: Path, kind: str
) -> None:
    training = TrainingConfig(num_epochs=3, warmup_steps=0)
    module, data = built(kind, paths, training)
    failed = limit_memory(inner_of(module), 90)

    result = trained(module, data, tmp_path, training)

    assert len(failed) <= 3 and result.steps == 6
    recovery = recovery_of(last_of(tmp_path))
    assert recovery.mini_batch_size == module.mini_batch_size > 0
    assert (
        recovery.parts == data.parts == (8 // recovery.mini_batch_size if kind == "language" else 1)
    )

    resumed, data = built(kind, paths, training)
    failed = limit_memory(inner_of(resumed), 90)
    longer = replace(training, num_epochs=4)
    trained(resumed, data, tmp_path, longer, resume=last_of(tmp_path))

    assert not failed
    assert (resumed.mini_batch_size, data.parts) == (recovery.mini_batch_size, recovery.parts)


def test_one_row_that_does_not_fit_says_what_to_do(
    tiny_language_model: str, tmp_path: Path
) -> None:
    module = language(tiny_language_model)
    limit_memory(decoder_of(module.model), 10)
    message = (
        r"one row alone doesn't fit into memory\. Lower max_length, or set "
        r"training\.memory\.gradient_checkpoin"
    )

    with pytest.raises(TrainingError, match=message):
        step(module, examples(tiny_language_model), tmp_path)


def test_many_short_rows_are_halved_after_a_few_long_ones(
    tiny_language_model: str, tmp_path: Path
) -> None:
    """Batches of equal tokens differ in rows: after two long rows, single rows are enough."""
    module = language(tiny_language_model)
    data = examples(tiny_language_model, rows=64, tokens=120, outputs=(40, 1, 1, 1, 1, 1, 1, 1))
    # Rows of equal length share a batch, and this order begins with two long ones.
    data.padded, data.seed = True, 3
    failed = limit_memory(decoder_of(module.model), 70)
    training = replace(ONE_STEP, max_steps=-1, num_epochs=1)

    result = trained(module, data, tmp_path, training, validate=False)

    # Two long rows, then three of five short rows, as each batch has two parts by then.
    assert failed == [128, 84] and data.parts == 3
    assert (result.steps, module.mini_batch_size) == (17, 1)


def test_other_errors_are_no_lack_of_memory(tiny_language_model: str, tmp_path: Path) -> None:
    module = language(tiny_language_model)

    def fail(*arguments: Any) -> None:
        raise RuntimeError("shapes differ")

    decoder_of(module.model).register_forward_pre_hook(fail)

    with pytest.raises(RuntimeError, match="shapes differ"):
        step(module, examples(tiny_language_model), tmp_path)
    assert module.mini_batch_size == 0


def test_a_full_memory_before_the_first_batch_is_not_blamed_on_a_row(
    tiny_language_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = language(tiny_language_model)

    def fail() -> None:
        raise ERRORS["cuda"]()

    monkeypatch.setattr(module, "on_train_start", fail)

    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        step(module, examples(tiny_language_model), tmp_path)


@pytest.mark.parametrize(
    ("kind", "limit"),
    [("language", 100), ("language", 40), ("embedding", 100), ("embedding", 60)],
)
def test_validation_out_of_memory_has_the_same_loss_in_mini_batches(
    paths: dict[str, str], tmp_path: Path, kind: str, limit: int
) -> None:
    training = TrainingConfig(num_epochs=1, warmup_steps=0)
    module, data = built(kind, paths, training)
    expected = trained(module, data, tmp_path / "whole", training)
    module, data = built(kind, paths, training)
    failed = limit_memory(inner_of(module), limit, when=lambda model: not model.training)

    result = trained(module, data, tmp_path / "limited", training)

    assert failed and module.mini_batch_size > 0
    # A validation's rows are not cut into parts before.
    assert data.parts == (8 // module.mini_batch_size if kind == "language" else 1)
    loss, expected_loss = result.history["val/loss"][0][1], expected.history["val/loss"][0][1]
    assert loss == pytest.approx(expected_loss, rel=1e-5)


def test_mini_batches_and_parts_never_grow_again() -> None:
    cut = Recovery(mini_batch_size=1, parts=8)

    after = cut.after_full_memory(FullMemoryError(mini_batch_size=4, rows=16, cuts_itself=False))
    assert (after.mini_batch_size, after.parts) == (1, 8)

    after = cut.after_full_memory(FullMemoryError(mini_batch_size=2, rows=32, cuts_itself=False))
    assert (after.mini_batch_size, after.parts) == (1, 16)

    after = cut.after_full_memory(FullMemoryError(mini_batch_size=4, rows=64, cuts_itself=True))
    assert (after.mini_batch_size, after.parts) == (1, 8)


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
