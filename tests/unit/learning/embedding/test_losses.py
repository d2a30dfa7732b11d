import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from torch import Tensor

from tunetrail.config import EMBEDDING_LOSSES
from tunetrail.errors import ConfigError
from tunetrail.learning.embedding.losses import build_embedding_loss, loss_name, supervised_contrastive_loss
from tunetrail.learning.embedding.module import load_embedding_model

TEXTS = ["a red fox", "the blue sea", "an old book of maps", "two and two", "rain", "a loaf of bread"]
OTHERS = ["a fox of red", "sea and sky", "maps in a book", "four", "wet weather", "flour, water, salt"]
NEGATIVES = ["a green frog", "dry land", "a new phone", "five", "sun", "a stone"]
COLUMNS = {"pair": 2, "score": 2, "label": 1, "vector": 1, "text": 1}
EVERY_LOSS = [(shape, loss) for shape, losses in EMBEDDING_LOSSES.items() for loss in losses]


@pytest.fixture
def model(tiny_embedding_model: str) -> SentenceTransformer:
    return load_embedding_model(tiny_embedding_model)


def features(model: SentenceTransformer, *columns: list[str]) -> list[dict[str, Any]]:
    return [model.preprocess(column) for column in columns]


def targets(shape: str) -> Tensor | None:
    return {
        "score": torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7, 1.0]),
        "label": torch.tensor([0, 1, 0, 1, 2, 2]),
        "vector": torch.randn(6, 32, generator=torch.Generator().manual_seed(0)),
    }.get(shape)


@pytest.mark.parametrize(("shape", "name"), EVERY_LOSS)
def test_loss_of_each_shape_is_finite_reaches_every_parameter_and_falls(
    model: SentenceTransformer, shape: str, name: str
) -> None:
    loss = build_embedding_loss(model, shape, name, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(0)
    values = []
    for step in range(6):
        value = loss(features(model, *[TEXTS, OTHERS][: COLUMNS[shape]]), targets(shape))
        optimizer.zero_grad()
        value.backward()
        if step == 0:
            untrained = [n for n, p in model.named_parameters() if p.grad is None and ".pooler." not in n]
            assert untrained == []
        optimizer.step()
        values.append(float(value.detach()))
    assert all(map(torch.isfinite, map(torch.tensor, values)))
    assert min(values[1:]) < values[0]


@pytest.mark.parametrize(
    ("shape", "name"),
    [(shape, name) for shape in EMBEDDING_LOSSES for _, name in EVERY_LOSS if name not in EMBEDDING_LOSSES[shape]],
)
def test_loss_that_does_not_fit_the_shape_is_refused(model: SentenceTransformer, shape: str, name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"embedding\.loss must be one of auto, .* for {shape} samples, got '{name}'"
    ):
        build_embedding_loss(model, shape, name, 0)


def test_loss_name_auto_is_the_first_of_the_shape() -> None:
    chosen = {shape: loss_name(shape, "auto") for shape in EMBEDDING_LOSSES}
    assert chosen == {
        "pair": "multiple_negatives_ranking",
        "score": "cosent",
        "label": "supervised_contrastive",
        "vector": "mse",
        "text": "simcse",
    }


def naive_supervised_contrastive(embeddings: Tensor, labels: Tensor, temperature: float) -> float:
    """Equation 2 of Khosla et al. 2020, written out."""
    vectors = embeddings.double() / embeddings.double().norm(dim=1, keepdim=True)
    per_row = []
    for i in range(len(vectors)):
        others = [a for a in range(len(vectors)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            total = sum(torch.exp(vectors[i] @ vectors[a] / temperature) for a in others)
            logs = [torch.log(torch.exp(vectors[i] @ vectors[p] / temperature) / total) for p in positives]
            per_row.append(-float(sum(logs)) / len(positives))
    return sum(per_row) / len(per_row) if per_row else 0.0


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    seed=st.integers(0, 100),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
)
def test_supervised_contrastive_equals_the_formula(labels: list[int], seed: int, temperature: float) -> None:
    embeddings = torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    value = supervised_contrastive_loss(embeddings, torch.tensor(labels), temperature)
    expected = naive_supervised_contrastive(embeddings.detach(), torch.tensor(labels), temperature)
    assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    value.backward()
    assert embeddings.grad is not None
    assert bool(torch.isfinite(embeddings.grad).all())


@pytest.mark.parametrize("negatives", [0, 3, 6], ids=["no negatives", "some rows", "all rows"])
@pytest.mark.parametrize("mini_batch_size", [1, 4, 50])
def test_cached_contrastive_loss_equals_the_plain_one(
    model: SentenceTransformer, mini_batch_size: int, negatives: int
) -> None:
    model.eval()  # without dropout
    columns = [TEXTS, OTHERS, *([NEGATIVES[:negatives]] if negatives else [])]
    found = []
    for size in (0, mini_batch_size):
        twin = copy.deepcopy(model)
        value = build_embedding_loss(twin, "pair", "auto", size)(features(twin, *columns), None)
        value.backward()
        found.append((value.item(), [p.grad for p in twin.parameters() if p.grad is not None]))
    (plain, plain_gradients), (cached, cached_gradients) = found
    assert cached == pytest.approx(plain, abs=1e-5)
    assert len(cached_gradients) == len(plain_gradients) > 10
    for one, other in zip(plain_gradients, cached_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_simcse_views_differ_by_dropout_only(model: SentenceTransformer) -> None:
    loss = build_embedding_loss(model, "text", "simcse", 0)
    model.eval()
    with torch.no_grad():
        certain = [float(loss(features(model, TEXTS), None)) for _ in range(2)]
        twins = build_embedding_loss(model, "pair", "auto", 0)(features(model, TEXTS, TEXTS), None)
    assert certain[0] == certain[1] == pytest.approx(float(twins), abs=1e-6)
    model.train()
    with torch.no_grad():
        drawn = [float(loss(features(model, TEXTS), None)) for _ in range(2)]
    assert len({certain[0], *drawn}) == 3


def test_contrastive_loss_sees_the_negatives(model: SentenceTransformer) -> None:
    model.eval()
    loss = build_embedding_loss(model, "pair", "auto", 0)
    with torch.no_grad():
        without = float(loss(features(model, TEXTS, OTHERS), None))
        some = float(loss(features(model, TEXTS, OTHERS, NEGATIVES[:3]), None))
        every = float(loss(features(model, TEXTS, OTHERS, NEGATIVES), None))
    assert without < some < every


def test_supervised_loss_without_targets_is_refused(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="needs a target per row"):
        build_embedding_loss(model, "label", "auto", 0)(features(model, TEXTS), None)
