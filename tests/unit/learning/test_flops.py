from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Router
from torch import nn
from transformers import BertConfig, BertModel

from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.flops import TokenCost, measured_peak, token_cost

WIDTH, INNER, LAYERS = 8, 16, 3
PER_LAYER = 4 * WIDTH * WIDTH + 2 * WIDTH * INNER


def test_token_cost_counts_what_every_token_goes_through() -> None:
    config = BertConfig(
        vocab_size=30,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=INNER,
    )
    model, head = BertModel(config), nn.Linear(WIDTH, 30)
    model.encoder.layer[0].requires_grad_(False)
    model.head = head
    assert model.pooler.dense.weight.numel()  # sees one token of a sequence
    expected = TokenCost(trained=2 * PER_LAYER, frozen=PER_LAYER, attention=LAYERS * WIDTH)
    assert token_cost(model, head) == expected
    assert expected.forward([3, 4]) == 2 * 3 * PER_LAYER * 7 + 4 * LAYERS * WIDTH * (9 + 16)


def test_embedding_modules_count_their_attention(tiny_embedding_model: str) -> None:
    module = EmbeddingModule(model=tiny_embedding_model, shape="pair")
    assert module._cost.attention > 0
    assert module._cost.trained > 0 and module._cost.frozen == 0


def test_a_model_of_two_encoders_has_a_cost_too(tiny_embedding_model: str, tmp_path: Path) -> None:
    one = SentenceTransformer(tiny_embedding_model, device="cpu")
    encoders = list(one)
    router = Router.for_query_document(query_modules=encoders, document_modules=encoders)
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path))
    module = EmbeddingModule(model=str(tmp_path), shape="pair")
    assert not module.encoder.padding_free
    assert module._cost.trained > 0


def test_the_peak_is_a_machines_and_leaves_the_random_generator_alone() -> None:
    before = torch.get_rng_state()
    assert 1e8 < measured_peak(0.0) < 1e15
    assert torch.equal(torch.get_rng_state(), before)
