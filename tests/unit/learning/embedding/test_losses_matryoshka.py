import pytest
import torch
from sentence_transformers.sentence_transformer import losses as library
from torch import Tensor, nn

from tunetrail.config.losses import EMBEDDING_LOSSES
from tunetrail.errors import ConfigError
from tunetrail.learning.embedding.losses import build_vector_loss

ROWS, DIMENSIONS = 6, 16
BY_COSINES = (
    "multiple_negatives_ranking",
    "mega_batch_margin",
    "cosent",
    "cosine_similarity",
    "simcse",
)


class Given(nn.Module):
    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return dict(features)

    def get_embedding_dimension(self) -> int:
        return DIMENSIONS


def batch_of(shape: str, name: str) -> tuple[list[Tensor], Tensor | None]:
    columns = (
        2 if name in ("mega_batch_margin", "simcse") else {"pair": 3, "score": 2}.get(shape, 1)
    )
    draws = torch.Generator().manual_seed(4)
    vectors = [
        torch.randn(ROWS, DIMENSIONS, generator=draws, requires_grad=True) for _ in range(columns)
    ]
    if name in ("margin_mse", "distill_kl_div"):
        return vectors, torch.randn(ROWS, 2, generator=draws)
    if name == "gist_embed":
        return vectors, torch.randn(columns * ROWS, 12, generator=draws)
    if shape in ("vector", "text") and name != "simcse":
        return vectors, torch.randn(ROWS, DIMENSIONS, generator=draws)
    target = {
        "score": torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0]),
        "label": torch.tensor([0, 1, 0, 1, 2, 2]),
    }
    return vectors, target.get(shape)


@pytest.mark.parametrize(
    ("shape", "name"), [(shape, name) for shape, its in EMBEDDING_LOSSES.items() for name in its]
)
def test_matryoshka_is_the_weighted_sum_over_cut_vectors_and_the_full_ones(
    shape: str, name: str
) -> None:
    vectors, target = batch_of(shape, name)
    plain = build_vector_loss(shape, name)
    cuts_target = name in ("mse", "cosine", "l2")
    assert target is None or cuts_target == (target.shape[-1] == DIMENSIONS)
    by_hand = plain(vectors, target)
    for dimensions, weight in ((8, 0.5), (3, 2.0)):
        cut = target[:, :dimensions] if cuts_target and target is not None else target
        by_hand = by_hand + weight * plain([each[:, :dimensions] for each in vectors], cut)
    summed = build_vector_loss(
        shape, name, matryoshka_dimensions=[8, 3], matryoshka_weights=[0.5, 2.0]
    )
    value = summed(vectors, target)
    assert value.item() == pytest.approx(by_hand.item(), rel=1e-6)
    expected, found = torch.autograd.grad(by_hand, vectors), torch.autograd.grad(value, vectors)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", BY_COSINES)
def test_matryoshka_equals_the_librarys_for_losses_by_cosines(name: str) -> None:
    shape = next(shape for shape, its in EMBEDDING_LOSSES.items() if name in its)
    vectors, target = batch_of(shape, name)
    model = Given()
    inner = {
        "mega_batch_margin": lambda: library.MegaBatchMarginLoss(
            model, use_mini_batched_version=False
        ),
        "cosent": lambda: library.CoSENTLoss(model),
        "cosine_similarity": lambda: library.CosineSimilarityLoss(model),
    }.get(name, lambda: library.MultipleNegativesRankingLoss(model))()
    theirs = library.MatryoshkaLoss(model, inner, [DIMENSIONS, 8, 2], [1.0, 0.5, 0.25])
    expected = theirs([{"sentence_embedding": each} for each in vectors], target)
    ours = build_vector_loss(
        shape, name, matryoshka_dimensions=[2, 8], matryoshka_weights=[0.25, 0.5]
    )
    assert ours(vectors, target).item() == pytest.approx(expected.item(), rel=1e-6)


def test_matryoshka_weights_are_one_by_default_and_may_be_set_for_the_full_vectors() -> None:
    vectors, _ = batch_of("pair", "auto")
    loss = build_vector_loss("pair", "auto")
    full, half = loss(vectors, None).item(), loss([each[:, :8] for each in vectors], None).item()

    def value(dimensions: list[int], weights: list[float] | None) -> float:
        built = build_vector_loss(
            "pair", "auto", matryoshka_dimensions=dimensions, matryoshka_weights=weights
        )
        return built(vectors, None).item()

    assert value([8], None) == pytest.approx(full + half, rel=1e-6)
    assert value([DIMENSIONS, 8], [0.1, 1.0]) == pytest.approx(0.1 * full + half, rel=1e-6)


def test_matryoshka_dimensions_above_the_vectors_are_refused() -> None:
    loss = build_vector_loss("pair", "auto", matryoshka_dimensions=[DIMENSIONS + 1])
    with pytest.raises(
        ConfigError, match=f"at most the model's {DIMENSIONS} dimensions, got {DIMENSIONS + 1}"
    ):
        loss(batch_of("pair", "auto")[0], None)


def test_cutting_no_longer_costs_quality_where_it_was_trained() -> None:
    """What Matryoshka is for: with it the first numbers alone can tell positives from negatives."""

    def accuracy_of_the_first(matryoshka: list[int]) -> float:
        draws = torch.Generator().manual_seed(0)
        tables = [torch.randn(12, 16, generator=draws, requires_grad=True) for _ in range(2)]
        optimizer = torch.optim.Adam(tables, lr=0.05)
        loss = build_vector_loss("pair", "auto", matryoshka_dimensions=matryoshka)
        for _ in range(40):
            optimizer.zero_grad()
            loss(list(tables), None).backward()
            optimizer.step()
        cut = [nn.functional.normalize(each.detach()[:, :3], dim=1) for each in tables]
        return float(((cut[0] @ cut[1].T).argmax(dim=1) == torch.arange(12)).float().mean())

    assert accuracy_of_the_first([3]) > accuracy_of_the_first([])
