import pytest
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    MPNetConfig,
    MPNetModel,
)

from tunetrail.learning.training.layers import layer_depths, numbered_layers

SMALL = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}


def depths_of(module: nn.Module, *parts: str) -> list[set[int]]:
    """Return the depths of the parameters with each part in their names."""
    depths = layer_depths(module)
    assert depths.keys() == {name for name, _ in module.named_parameters()}
    found = [{depth for name, depth in depths.items() if part in name} for part in parts]
    assert set().union(*found) == set(depths.values())
    return found


@pytest.mark.parametrize("wrapped", [False, True])
def test_depths_of_gpt2(wrapped: bool) -> None:
    model: nn.Module = GPT2LMHeadModel(
        GPT2Config(vocab_size=20, n_positions=9, n_embd=8, n_layer=3, n_head=2)
    )
    if wrapped:  # what wraps the layers may be called as it likes
        model = nn.ModuleDict({"embedding_model": model, "head": nn.Linear(2, 2)})
    assert depths_of(model, "wte", "wpe", ".h.0.", ".h.1.", ".h.2.", "ln_f") == [
        {4},
        {4},
        {3},
        {2},
        {1},
        {0},
    ]
    if wrapped:
        assert depths_of(model, "wte", ".h.", "ln_f", "head.")[3] == {0}


def test_depths_of_encoders() -> None:
    mpnet = MPNetModel(MPNetConfig(**SMALL))
    names = ("embeddings.", "relative_attention_bias", "layer.0.", "layer.1.", "layer.2.", "pooler")
    assert depths_of(mpnet, *names) == [{4}, {4}, {3}, {2}, {1}, {0}]
    distilled = DistilBertModel(
        DistilBertConfig(vocab_size=20, dim=8, n_layers=2, n_heads=2, hidden_dim=8)
    )
    assert depths_of(distilled, "embeddings.", "layer.0.", "layer.1.") == [{3}, {2}, {1}]
    albert = AlbertModel(AlbertConfig(embedding_size=8, **SMALL))  # all its layers are one
    assert depths_of(albert, "embeddings.", "albert_layers.0.", "pooler") == [{2}, {1}, {0}]


def test_the_layers_are_the_largest_list() -> None:
    experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    layers = nn.ModuleList(
        nn.ModuleDict({"experts": experts, "norm": nn.LayerNorm(2)}) for _ in range(2)
    )
    heads = nn.ModuleList([nn.Linear(2, 1)])
    found = numbered_layers(nn.ModuleDict({"heads": heads, "layers": layers}))
    assert found is not None and found[0] == "layers" and found[1] is layers
    assert numbered_layers(nn.ModuleDict({"none": nn.ModuleList()})) is None
