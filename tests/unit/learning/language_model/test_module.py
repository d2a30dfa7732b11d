import copy
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tunetrail.config import AdapterConfig, TrainingConfig
from tunetrail.learning.fitting import fit, optimization_settings
from tunetrail.learning.language_model.data import LanguageModelDataModule
from tunetrail.learning.language_model.forward import (
    build_forward,
    causal_model,
    concatenating,
    padded,
    padded_nats,
)
from tunetrail.learning.language_model.module import (
    LanguageModelModule,
    load_language_model,
    load_tokenizer,
)
from tunetrail.learning.padding_free.attention import segment_attention_of
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample, tokenize_record
from tunetrail.learning.training_plan import TrainingPlan

RECORDS: list[dict[str, Any]] = [
    {"input": "What is 2 + 2?", "output": "4"},
    {"input": "Say hello.", "output": "Hello there, and a good day to you!"},
    {"text": "A short story."},
    {"messages": [{"role": "user", "content": "é"}, {"role": "assistant", "content": "日本"}] * 2},
]


@pytest.fixture
def examples(tiny_language_model: str) -> list[TokenizedExample]:
    tokenizer = load_tokenizer(tiny_language_model)
    return [tokenize_record(tokenizer, record, 128) for record in RECORDS]


@pytest.fixture
def batch(examples: list[TokenizedExample]) -> dict[str, Tensor]:
    return padded(examples, 0)


def trained(
    path: str, examples: list[TokenizedExample], folder: Path, adapter: str
) -> LanguageModelModule:
    training = TrainingConfig(
        num_epochs=2, warmup_steps=0, validations_per_epoch=1, learning_rate=1e-2
    )
    module = LanguageModelModule(
        model=path,
        adapter=None if adapter == "none" else asdict(AdapterConfig(kind=adapter, rank=4, alpha=8)),
        optimization=optimization_settings(training),
    )
    data = LanguageModelDataModule(train=examples, validation=examples, batch_size=2)
    fit(
        module,
        data,
        training,
        TrainingPlan(folder=folder, on_metrics=lambda metrics, step: None),
        seed=0,
    )
    module.eval()
    return module


def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad(), segment_attention_of(causal_model(model), "sdpa"):
        found: Tensor = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits
    return found


def test_padded_nats_equal_full_cross_entropy_one_by_one(
    tiny_language_model: str, examples: list[TokenizedExample], batch: dict[str, Tensor]
) -> None:
    model = load_language_model(tiny_language_model).eval()
    with torch.no_grad():
        found = padded_nats(model, batch).sum(dim=1)
        exact = copy.deepcopy(model).double()
        for number, example in enumerate(examples):
            full = exact(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
            targets = torch.tensor(example.labels[1:])
            expected = torch.nn.functional.cross_entropy(
                full, targets, ignore_index=IGNORED, reduction="sum"
            )
            assert float(found[number]) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("padding_free", [True, False])
def test_token_scores_equal_the_full_logits(
    tiny_language_model: str, examples: list[TokenizedExample], padding_free: bool
) -> None:
    model = load_language_model(tiny_language_model).eval()
    end = model.config.eos_token_id
    batch = padded(examples, 0)
    log_probabilities = logits(model, batch)[:, :-1].log_softmax(dim=-1)
    targets = batch["labels"][:, 1:]

    forward = build_forward(model, 0, padding_free=padding_free)
    with torch.no_grad(), concatenating(model) if padding_free else nullcontext():
        scores, token_nats = forward.token_scores(examples, [end])

    is_supervised = targets != IGNORED
    nats = -log_probabilities.gather(2, targets.clamp(min=0)[..., None]).squeeze(2) * is_supervised
    hits = (log_probabilities.argmax(dim=2) == targets) & is_supervised
    torch.testing.assert_close(scores[:, 0], nats.sum(dim=1))
    torch.testing.assert_close(scores[:, 1], (nats * (targets != end)).sum(dim=1))
    assert scores[:, 2].tolist() == hits.sum(dim=1).tolist()
    for row, tokens in enumerate(token_nats):
        torch.testing.assert_close(tokens, nats[row][is_supervised[row]])


def test_padded_nats_are_zero_where_nothing_is_learnt(
    tiny_language_model: str, batch: dict[str, Tensor]
) -> None:
    model = load_language_model(tiny_language_model).eval()
    batch["labels"][2] = IGNORED
    with torch.no_grad():
        nats = padded_nats(model, batch)
        assert float(nats[2].sum()) == 0.0
        assert int((nats > 0).sum()) == int((batch["labels"][:, 1:] != IGNORED).sum())
        batch["labels"][:] = IGNORED
        assert padded_nats(model, batch).sum(dim=1).tolist() == [0.0] * 4


def test_padded_nats_of_a_row_do_not_depend_on_the_others(
    tiny_language_model: str, examples: list[TokenizedExample]
) -> None:
    model = load_language_model(tiny_language_model).eval()
    longer = TokenizedExample(
        input_ids=[5] * 120, labels=[7] * 120, supervised_bytes=120, truncated=False
    )
    with torch.no_grad():
        before = padded_nats(model, padded(examples, 0)).sum(dim=1)
        after = padded_nats(model, padded([examples[0], longer, *examples[2:]], 0)).sum(dim=1)
    others = [0, 2, 3]
    torch.testing.assert_close(after[others], before[others], atol=1e-4, rtol=1e-6)
    assert abs(float(after[1] - before[1])) > 1.0


@pytest.mark.parametrize("padding_free", [True, False])
def test_module_loss_is_the_mean_over_supervised_tokens(
    tiny_language_model: str, examples: list[TokenizedExample], tmp_path: Path, padding_free: bool
) -> None:
    weights = (1.0, 0.5, 2.0, 0.0)
    weighted = [
        replace(example, weight=weight) for example, weight in zip(examples, weights, strict=True)
    ]
    training = TrainingConfig(max_steps=1)
    module = LanguageModelModule(
        model=tiny_language_model,
        padding_free=padding_free,
        optimization=optimization_settings(training),
    )
    data = LanguageModelDataModule(train=weighted, validation=[], batch_size=4)
    result = fit(
        module,
        data,
        training,
        TrainingPlan(folder=tmp_path, on_metrics=lambda metrics, step: None, validate=False),
        seed=0,
    )
    batch = padded(examples, 0)
    logit = logits(load_language_model(tiny_language_model).eval(), batch)[:, :-1]
    nats = torch.nn.functional.cross_entropy(
        logit.mT, batch["labels"][:, 1:], reduction="none"
    ).sum(dim=1)
    tokens = (batch["labels"][:, 1:] != IGNORED).sum(dim=1)
    expected = (nats * torch.tensor(weights)).sum() / (tokens * torch.tensor(weights)).sum()
    assert result.history["train/loss"] == [(1, pytest.approx(float(expected), abs=1e-5))]


@pytest.mark.filterwarnings(
    "ignore:Found keys that are in the model state dict"
)  # the frozen ones, left out on purpose
def test_adapter_checkpoint_holds_only_trained_weights(
    tiny_language_model: str,
    examples: list[TokenizedExample],
    batch: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    module = trained(tiny_language_model, examples, tmp_path, "lora")
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert set(state) == {
        name for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    assert all("lora_" in name for name in state)
    loaded = LanguageModelModule.load_from_checkpoint(checkpoint, weights_only=True).eval()
    torch.testing.assert_close(
        logits(loaded.model, batch), logits(module.model, batch), atol=0, rtol=0
    )


def test_full_checkpoint_round_trip(
    tiny_language_model: str,
    examples: list[TokenizedExample],
    batch: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    module = trained(tiny_language_model, examples, tmp_path, "none")
    loaded = LanguageModelModule.load_from_checkpoint(
        tmp_path / "checkpoints" / "best.ckpt", weights_only=True
    )
    assert dict(loaded.hparams) == dict(module.hparams)
    torch.testing.assert_close(
        logits(loaded.eval().model, batch), logits(module.model, batch), atol=0, rtol=0
    )
    base = load_language_model(tiny_language_model).eval()
    assert float((logits(base, batch) - logits(module.model, batch)).abs().max()) > 1e-2
    assert module.merged() is module.model


def test_merged_model_equals_the_adapted_one_and_differs_from_its_base(
    tiny_language_model: str,
    examples: list[TokenizedExample],
    batch: dict[str, Tensor],
    tmp_path: Path,
) -> None:
    module = trained(tiny_language_model, examples, tmp_path, "lora")
    adapted = logits(module.model, batch)
    merged = module.merged().eval()
    torch.testing.assert_close(logits(merged, batch), adapted, atol=1e-5, rtol=0)
    base = load_language_model(tiny_language_model).eval()
    assert float((logits(base, batch) - adapted).abs().max()) > 1e-2
    assert set(merged.state_dict()) == set(base.state_dict())
    merged.save_pretrained(tmp_path / "merged")
    reloaded = load_language_model(str(tmp_path / "merged")).eval()
    torch.testing.assert_close(logits(reloaded, batch), logits(merged, batch), atol=1e-6, rtol=0)


def test_fresh_adapters_change_nothing(tiny_language_model: str, batch: dict[str, Tensor]) -> None:
    module = LanguageModelModule(
        model=tiny_language_model, adapter=asdict(AdapterConfig(kind="lora"))
    ).eval()
    base = load_language_model(tiny_language_model).eval()
    torch.testing.assert_close(logits(module.model, batch), logits(base, batch), atol=1e-6, rtol=0)


def test_load_gives_a_model_without_padding_token_one(
    tiny_language_model: str, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(tiny_language_model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token_id == tokenizer.eos_token_id
