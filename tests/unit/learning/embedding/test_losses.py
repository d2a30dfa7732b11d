import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as library
from torch import Tensor

from tunetrail.config.losses import EMBEDDING_LOSSES
from tunetrail.errors import ConfigError, SampleError
from tunetrail.learning.embedding.losses import build_vector_loss, supervised_contrastive_loss
from tunetrail.learning.embedding.reader import load_embedding_model

TEXTS = [
    "a red fox",
    "the blue sea",
    "an old book of maps",
    "two and two",
    "rain",
    "a loaf of bread",
]
OTHERS = [
    "a fox of red",
    "sea and sky",
    "maps in a book",
    "four",
    "wet weather",
    "flour, water, salt",
]
NEGATIVES = ["a green frog", "dry land", "a new phone", "five", "sun", "a stone"]
ROWS = len(TEXTS)
EVERY_LOSS = [(shape, loss) for shape, losses in EMBEDDING_LOSSES.items() for loss in losses]
WITHOUT_NEGATIVES = ("mega_batch_margin", "simcse")
LIBRARY: dict[str, Callable[..., Any]] = {
    "multiple_negatives_ranking": library.MultipleNegativesRankingLoss,
    "multiple_negatives_symmetric_ranking": library.MultipleNegativesSymmetricRankingLoss,
    "mega_batch_margin": lambda model: library.MegaBatchMarginLoss(
        model, use_mini_batched_version=False
    ),
    "triplet": library.TripletLoss,
    "margin_mse": library.MarginMSELoss,
    "distill_kl_div": library.DistillKLDivLoss,
    "cosent": library.CoSENTLoss,
    "angle": library.AnglELoss,
    "cosine_similarity": library.CosineSimilarityLoss,
    "contrastive": library.ContrastiveLoss,
    "online_contrastive": library.OnlineContrastiveLoss,
    "batch_all_triplet": library.BatchAllTripletLoss,
    "batch_hard_triplet": library.BatchHardTripletLoss,
    "batch_semi_hard_triplet": library.BatchSemiHardTripletLoss,
    "batch_hard_soft_margin_triplet": library.BatchHardSoftMarginTripletLoss,
    "mse": library.MSELoss,
    "cosine": lambda model: library.EmbedDistillLoss(model, distance_metric="cosine"),
    "l2": lambda model: library.EmbedDistillLoss(model, distance_metric="l2"),
    "simcse": library.MultipleNegativesRankingLoss,
}


@pytest.fixture(scope="module")
def model(tiny_embedding_model: str) -> SentenceTransformer:
    return load_embedding_model(tiny_embedding_model).eval()


def columns_of(shape: str, name: str) -> int:
    return 2 if name in WITHOUT_NEGATIVES else {"pair": 3, "score": 2}.get(shape, 1)


def target_of(shape: str, name: str, dimensions: int = 32, columns: int = 3) -> Tensor | None:
    draws = torch.Generator().manual_seed(5)
    if name in ("contrastive", "online_contrastive"):
        return torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    if name in ("margin_mse", "distill_kl_div"):
        return torch.randn(ROWS, 2, generator=draws)
    if name == "gist_embed":
        return torch.randn(columns * ROWS, 7, generator=draws)
    if shape in ("vector", "text") and name != "simcse":
        return torch.randn(ROWS, dimensions, generator=draws)
    return {
        "score": torch.tensor([0.1, 0.9, 0.5, 0.3, 0.7, 1.0]),
        "label": torch.tensor([0, 1, 0, 1, 2, 2]),
    }.get(shape)


def random_vectors(
    columns: int, dimensions: int = 32, rows: int = ROWS, seed: int = 0
) -> list[Tensor]:
    draws = torch.Generator().manual_seed(seed)
    return [
        torch.randn(rows, dimensions, generator=draws, requires_grad=True) for _ in range(columns)
    ]


@pytest.mark.parametrize(("shape", "name"), EVERY_LOSS)
def test_each_loss_is_finite_reaches_every_column_and_falls_along_its_gradient(
    shape: str, name: str
) -> None:
    loss = build_vector_loss(shape, name)
    vectors, target = random_vectors(columns_of(shape, name)), target_of(shape, name)
    value = loss(vectors, target)
    gradients = torch.autograd.grad(value, vectors)
    assert value.shape == ()
    assert bool(torch.isfinite(value))
    assert all(
        bool(torch.isfinite(each).all()) and float(each.abs().sum()) > 0.0 for each in gradients
    )
    step = 1e-3 / float(torch.stack([each.norm() for each in gradients]).norm())
    nearer = [each - step * gradient for each, gradient in zip(vectors, gradients, strict=True)]
    assert loss(nearer, target).item() < value.item()


@pytest.mark.filterwarnings("ignore:The MultipleNegativesSymmetricRankingLoss is deprecated")
@pytest.mark.parametrize(
    ("shape", "name"),
    [each for each in EVERY_LOSS if each[1] not in ("supervised_contrastive", "gist_embed")],
)
def test_each_loss_and_its_gradient_equal_the_librarys_on_a_model(
    model: SentenceTransformer, shape: str, name: str
) -> None:
    texts = [TEXTS, TEXTS if name == "simcse" else OTHERS, NEGATIVES][: columns_of(shape, name)]
    weight = next(model.parameters())
    theirs = LIBRARY[name](model)(
        [model.preprocess(column) for column in texts], target_of(shape, name)
    )
    vectors = [model(model.preprocess(column))["sentence_embedding"] for column in texts]
    ours = build_vector_loss(shape, name)(vectors, target_of(shape, name))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6, abs=1e-6)
    expected, found = (torch.autograd.grad(value, weight)[0] for value in (theirs, ours))
    assert float(expected.abs().sum()) > 0.0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("negatives", [0, 4, 6], ids=["no negatives", "some rows", "all rows"])
def test_guided_loss_equals_the_librarys_with_a_guide_model(
    model: SentenceTransformer, negatives: int
) -> None:
    model = copy.deepcopy(
        model
    ).double()  # the loss multiplies cosines, and what they are rounded by, by 100
    guide = copy.deepcopy(model)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64))
    texts = [TEXTS, OTHERS, *([NEGATIVES[:negatives]] if negatives else [])]

    def embed(encoder: SentenceTransformer) -> list[Tensor]:
        with torch.no_grad():
            return [encoder(encoder.preprocess(column))["sentence_embedding"] for column in texts]

    loss = build_vector_loss("pair", "gist_embed")
    with torch.no_grad():
        theirs = library.GISTEmbedLoss(model, guide=guide)(
            [model.preprocess(column) for column in texts], None
        )
        misguided = loss(embed(model), torch.randn(12 + negatives, 3, generator=draws))
    assert loss(embed(model), torch.cat(embed(guide))).item() == pytest.approx(
        theirs.item(), rel=1e-6, abs=1e-6
    )
    assert misguided.item() != pytest.approx(theirs.item(), abs=1e-3)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        (shape, name)
        for shape, fitting in EMBEDDING_LOSSES.items()
        for name in dict.fromkeys(name for _, name in EVERY_LOSS)
        if name not in fitting
    ],
)
def test_loss_that_does_not_fit_the_shape_is_refused(shape: str, name: str) -> None:
    fitting = ", ".join(EMBEDDING_LOSSES[shape])
    with pytest.raises(
        ConfigError, match=rf"must be one of auto, {fitting} for {shape} samples, got '{name}'"
    ):
        build_vector_loss(shape, name)


@pytest.mark.parametrize(
    ("shape", "name"), [each for each in EVERY_LOSS if target_of(*each) is not None]
)
def test_loss_without_its_target_is_refused(shape: str, name: str) -> None:
    with pytest.raises(ValueError, match="target must hold one value per row"):
        build_vector_loss(shape, name)(random_vectors(columns_of(shape, name)), None)


@pytest.mark.parametrize("name", ["triplet", "margin_mse", "distill_kl_div"])
@pytest.mark.parametrize("negatives", [0, 4])
def test_loss_that_needs_a_negative_in_every_row_refuses_a_batch_without(
    name: str, negatives: int
) -> None:
    vectors = random_vectors(2) + (
        [each[:negatives] for each in random_vectors(1)] if negatives else []
    )
    with pytest.raises(
        SampleError,
        match=f"negative must be in every row for the loss {name}.*got {negatives} for 6",
    ):
        build_vector_loss("pair", name)(vectors, target_of("pair", name))


def test_loss_that_takes_no_negatives_refuses_a_batch_with_some() -> None:
    with pytest.raises(
        SampleError, match="negative must be in no row for the loss mega_batch_margin, got 6"
    ):
        build_vector_loss("pair", "mega_batch_margin")(random_vectors(3), None)


@pytest.mark.parametrize(
    "name", ["multiple_negatives_ranking", "multiple_negatives_symmetric_ranking"]
)
def test_ranking_losses_see_the_negatives(name: str) -> None:
    loss = build_vector_loss("pair", name)
    vectors = random_vectors(3)
    values = [
        loss([*vectors[:2], *([vectors[2][:some]] if some else [])], None).item()
        for some in (0, 3, 6)
    ]
    assert values == sorted(set(values))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_is_computed_in_full_precision(dtype: torch.dtype) -> None:
    loss = build_vector_loss("pair", "multiple_negatives_ranking")
    halves = [each.detach().to(dtype).requires_grad_() for each in random_vectors(2)]
    exact = loss([each.detach().float() for each in halves], None).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(halves, None)
    assert value.dtype == torch.float32
    assert value.item() == exact
    assert [each.dtype for each in torch.autograd.grad(value, halves)] == [dtype, dtype]


def test_loss_has_no_state_and_leaves_vectors_and_targets_alone() -> None:
    for shape, name in EVERY_LOSS:
        vectors, target = random_vectors(columns_of(shape, name)), target_of(shape, name)
        before = [
            each.detach().clone() for each in (*vectors, *([] if target is None else [target]))
        ]
        loss = build_vector_loss(shape, name)
        first, second = loss(vectors, target).item(), loss(vectors, target).item()
        assert first == second
        for each, kept in zip(
            (*vectors, *([] if target is None else [target])), before, strict=True
        ):
            assert torch.equal(each, kept), name


def naive_supervised_contrastive(embeddings: Tensor, labels: Tensor, temperature: float) -> float:
    """Equation 2 of Khosla et al. 2020, written out."""
    vectors = embeddings.double() / embeddings.double().norm(dim=1, keepdim=True)
    per_row = []
    for i in range(len(vectors)):
        others = [a for a in range(len(vectors)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            total = sum(torch.exp(vectors[i] @ vectors[a] / temperature) for a in others)
            logs = [
                torch.log(torch.exp(vectors[i] @ vectors[p] / temperature) / total)
                for p in positives
            ]
            per_row.append(-float(sum(logs)) / len(positives))
    return sum(per_row) / len(per_row) if per_row else 0.0


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    seed=st.integers(0, 100),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
)
def test_supervised_contrastive_equals_the_formula(
    labels: list[int], seed: int, temperature: float
) -> None:
    embeddings = torch.randn(
        len(labels), 8, generator=torch.Generator().manual_seed(seed), requires_grad=True
    )
    value = supervised_contrastive_loss(embeddings, torch.tensor(labels), temperature)
    expected = naive_supervised_contrastive(embeddings.detach(), torch.tensor(labels), temperature)
    assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    value.backward()
    assert embeddings.grad is not None
    assert bool(torch.isfinite(embeddings.grad).all())
