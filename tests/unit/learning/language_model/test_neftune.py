import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunetrail.config import LanguageModelConfig
from tunetrail.errors import ConfigError
from tunetrail.learning.language_model.adapters import with_adapter
from tunetrail.learning.language_model.module import load_language_model
from tunetrail.learning.language_model.neftune import EmbeddingNoise

IDS = (torch.arange(60) % 40)[None]
LENGTHS = [5, 40, 15]


@pytest.fixture
def model(tiny_language_model: str) -> PreTrainedModel:
    return load_language_model(tiny_language_model).train()  # type: ignore[no-untyped-call]


def embedded(model: PreTrainedModel, ids: Tensor = IDS) -> Tensor:
    output: Tensor = model.get_input_embeddings()(ids).detach()  # type: ignore[no-untyped-call]
    return output


def test_noise_has_the_size_of_each_sequence_in_a_concatenated_batch(
    model: PreTrainedModel,
) -> None:
    clean = embedded(model)
    noise = EmbeddingNoise(model, alpha=5.0)
    torch.manual_seed(0)
    with noise.over(LENGTHS):
        added = embedded(model) - clean
    for segment in added[0].split(LENGTHS):
        bound = 5.0 / math.sqrt(len(segment) * clean.shape[-1])
        assert 0.95 * bound < float(segment.abs().max()) <= bound * (1 + 1e-5)
        assert abs(float(segment.mean())) < 0.2 * bound
        assert float(segment.std()) == pytest.approx(
            bound / math.sqrt(3.0), rel=0.1
        )  # of a uniform distribution


def test_noise_has_the_size_of_each_row_in_a_padded_batch(model: PreTrainedModel) -> None:
    ids = IDS.reshape(2, 30)
    clean = embedded(model, ids)
    noise = EmbeddingNoise(model, alpha=5.0)
    with noise.over(torch.tensor([30, 7])):
        added = embedded(model, ids) - clean
    for row, length in zip(added, (30, 7), strict=True):
        bound = 5.0 / math.sqrt(length * clean.shape[-1])
        assert 0.95 * bound < float(row.abs().max()) <= bound * (1 + 1e-5)


def test_noise_follows_torchs_seed(model: PreTrainedModel) -> None:
    noise = EmbeddingNoise(model, alpha=5.0)
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        with noise.over(LENGTHS):
            outputs.append(embedded(model))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_evaluation_and_other_passes_have_no_noise(model: PreTrainedModel) -> None:
    clean = embedded(model)
    noise = EmbeddingNoise(model, alpha=5.0)
    with noise.over(LENGTHS):
        noisy = embedded(model)
        model.eval()
        evaluated = embedded(model)
        model.train()
    assert not torch.equal(noisy, clean)
    assert torch.equal(evaluated, clean) and torch.equal(embedded(model), clean)
    off = EmbeddingNoise(model, alpha=0.0)
    with off.over(LENGTHS):
        assert torch.equal(embedded(model), clean)


def test_noise_is_removed_and_leaves_the_weights_alone(model: PreTrainedModel) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    noise = EmbeddingNoise(model, alpha=5.0)
    with noise.over(LENGTHS):
        model(input_ids=IDS).logits.sum().backward()
        noise.remove()
        assert torch.equal(embedded(model), before["model.embed_tokens.weight"][IDS])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_noise_reaches_a_model_with_adapters(model: PreTrainedModel) -> None:
    adapted = with_adapter(model, kind="lora", rank=2, alpha=4, dropout=0.0)
    noise = EmbeddingNoise(adapted, alpha=5.0)
    with torch.no_grad():
        clean = adapted(input_ids=IDS).logits
        with noise.over(LENGTHS):
            noisy = adapted(input_ids=IDS).logits
        assert float((noisy - clean).abs().max()) > 1e-3
        assert torch.equal(adapted(input_ids=IDS).logits, clean)


def test_a_failed_pass_ends_the_noise(model: PreTrainedModel) -> None:
    noise = EmbeddingNoise(model, alpha=5.0)
    with (
        pytest.raises(ValueError, match=r"lengths must match a batch \[1, 60\], got \[5, 40\]"),
        noise.over([5, 40]),
    ):
        embedded(model)
    assert torch.equal(embedded(model), embedded(model))


@pytest.mark.parametrize("alpha", [-0.1, math.nan, math.inf])
def test_config_refuses_a_noise_that_is_no_size(alpha: float) -> None:
    with pytest.raises(
        ConfigError, match=r"llm.neftune_alpha must be at least 0 \(0: off\) and finite"
    ):
        LanguageModelConfig(neftune_alpha=alpha)
    assert LanguageModelConfig(neftune_alpha=5.0).neftune_alpha == 5.0
