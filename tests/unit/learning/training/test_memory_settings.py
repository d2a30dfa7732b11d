from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunetrail.errors import ConfigError
from tunetrail.learning.cpu_layers.dropout import replace_dropout
from tunetrail.learning.padding_free.attention import SEGMENT_ATTENTION
from tunetrail.learning.padding_free.segments import concatenate
from tunetrail.learning.training.memory_settings import (
    compile_model,
    enable_gradient_checkpointing,
    transformers_in,
)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")


def language_model(folder: str, adapter: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder)
    if adapter == "none":
        return model
    adapted = get_peft_model(model, LoraConfig(r=4, lora_dropout=0.2, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # at 0, A would have no gradient
            nn.init.normal_(parameter, std=0.02)
    return adapted


def gradients_of(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None
    }


def kept_by(compute: Any) -> tuple[Tensor, int]:
    """Return what `compute` returns, and how many tensors it keeps for the backward pass."""
    kept: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return compute(), len(kept)


def assert_equal_gradients(model: nn.Module, loss: Any, switch_on: Any) -> None:
    """Compare loss, gradients and kept tensors, in training mode with dropout."""
    model.train()
    torch.manual_seed(1)
    value, kept = kept_by(loss)
    expected = gradients_of(model, value)
    switch_on(model)
    torch.manual_seed(1)
    again, kept_after = kept_by(loss)
    found = gradients_of(model, again)
    assert torch.equal(again, value)
    assert found.keys() == expected.keys() and len(found) > 4
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0)
    assert kept_after < kept / 2


def test_checkpointing_an_embedding_model_keeps_its_gradients(tiny_embedding_model: str) -> None:
    model = SentenceTransformer(tiny_embedding_model, device="cpu")
    features = model.preprocess(["a bird", "a rather longer text about birds"])
    weights = torch.randn(2, 32)
    assert_equal_gradients(
        model,
        lambda: (model(dict(features))["sentence_embedding"] * weights).sum(),
        enable_gradient_checkpointing,
    )


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_checkpointing_a_language_model_keeps_its_gradients(
    adapter: str, tiny_language_model: str
) -> None:
    model = language_model(tiny_language_model, adapter)
    tokens = AutoTokenizer.from_pretrained(tiny_language_model)(
        ["a bird", "cd efg"], return_tensors="pt"
    )
    assert_equal_gradients(
        model,
        lambda: model(**tokens, labels=tokens["input_ids"]).loss,
        enable_gradient_checkpointing,
    )


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_checkpointing_attention_within_segments_keeps_its_gradients(
    adapter: str, tiny_language_model: str
) -> None:
    model = language_model(tiny_language_model, adapter)
    replace_dropout(model)
    transformers_in(model)[0].set_attn_implementation(SEGMENT_ATTENTION)
    batch = concatenate([[1, 2, 3], [4, 5], [6, 7, 8, 9]]).features()
    assert_equal_gradients(
        model,
        lambda: model(**batch, use_cache=False).logits.square().mean(),
        enable_gradient_checkpointing,
    )


def test_checkpointing_leaves_frozen_embeddings_without_a_gradient(
    tiny_language_model: str,
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_language_model)
    model.get_input_embeddings().requires_grad_(False)
    enable_gradient_checkpointing(model)
    assert not model.get_input_embeddings()(torch.tensor([[1]])).requires_grad


def test_checkpointing_is_off_in_evaluation_mode(tiny_language_model: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_language_model)
    enable_gradient_checkpointing(model)
    model.eval()
    with torch.inference_mode():
        assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.shape == (
            1,
            3,
            model.config.vocab_size,
        )


def test_checkpointing_an_unsuitable_model_says_so(tiny_language_model: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_language_model)
    model.supports_gradient_checkpointing = False
    with pytest.raises(
        ConfigError,
        match=r"training\.memory\.gradient_checkpointing must be false .*LlamaForCausalLM",
    ):
        enable_gradient_checkpointing(nn.ModuleDict({"wrapped": model}))
    with pytest.raises(
        ConfigError, match=r"gradient_checkpointing must be false .*Linear has none"
    ):
        enable_gradient_checkpointing(nn.Linear(2, 2))


def test_the_outermost_transformer_is_found_in_any_wrapping(
    tiny_embedding_model: str, tiny_language_model: str
) -> None:
    embedding = SentenceTransformer(tiny_embedding_model, device="cpu")
    adapted = nn.ModuleDict({"model": language_model(tiny_language_model, "lora")})
    assert [type(each).__name__ for each in transformers_in(embedding)] == ["BertModel"]
    assert [type(each).__name__ for each in transformers_in(adapted)] == ["LlamaForCausalLM"]
    assert transformers_in(adapted) == transformers_in(transformers_in(adapted)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_have_the_same_gradients_and_names(tiny_embedding_model: str) -> None:
    from torch._dynamo.utils import counters

    model = SentenceTransformer(tiny_embedding_model, device="cpu").eval()
    batches = [
        model.preprocess(texts)
        for texts in (["a bird", "a longer text on birds"], ["one", "two", "three"])
    ]

    def losses() -> list[Tensor]:
        return [model(dict(batch))["sentence_embedding"].pow(3).sum() for batch in batches]

    names = list(model.state_dict())
    values = losses()
    expected = gradients_of(model, sum(values, torch.zeros(())))
    compile_model(model)
    counters.clear()
    again = losses()
    found = gradients_of(model, sum(again, torch.zeros(())))
    assert counters["stats"]["unique_graphs"] >= 1 and not counters["graph_break"]
    assert list(model.state_dict()) == names
    torch.testing.assert_close(again, values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_are_not_compiled_again_for_each_mix_of_lengths(
    tiny_language_model: str,
) -> None:
    from torch._dynamo.utils import counters

    model = AutoModelForCausalLM.from_pretrained(
        tiny_language_model, attn_implementation=SEGMENT_ATTENTION
    )
    rows = [
        [[1, 2, 3], [4, 5]],
        [[1, 2, 3, 4], [4, 5, 6, 7], [1]],
        [[5, 6]],
        [[7, 8, 9]] * 4,
        [[1, 1, 1, 1, 1], [2]],
    ]
    batches = [concatenate(each).features() for each in rows]
    expected = [model(**batch, use_cache=False).logits for batch in batches]
    compile_model(model)
    counters.clear()
    found = [model(**batch, use_cache=False).logits for batch in batches[:3]]
    compiled = counters["stats"]["unique_graphs"]
    found += [model(**batch, use_cache=False).logits for batch in batches[3:]]
    assert counters["stats"]["unique_graphs"] == compiled
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_compiling_with_checkpointing_says_that_it_does_nothing(
    tiny_language_model: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_language_model)
    enable_gradient_checkpointing(model)
    compile_model(model)
    assert [record.getMessage().split(" on ")[0] for record in caplog.records] == [
        "training.memory.compile has no effect"
    ]
    with pytest.raises(
        ConfigError, match=r"training\.memory\.compile must be false .*Linear has none"
    ):
        compile_model(nn.Linear(2, 2))
