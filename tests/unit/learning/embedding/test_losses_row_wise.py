import pytest
import torch

from tunetrail.config.embedding import LossConfig
from tunetrail.config.losses import EMBEDDING_LOSSES, LOSSES
from tunetrail.learning.embedding.losses import build_vector_loss

ROWS, DIMENSIONS = 8, 6
EVERY = [(shape, loss) for shape, losses in EMBEDDING_LOSSES.items() for loss in losses]


def vectors_and_target(shape: str, loss: str) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    torch.manual_seed(0)
    columns = {
        "pair": 3,
        "score": 2,
        "label": 1,
        "vector": 1,
        "text": 2 if loss == "simcse" else 1,
    }[shape]
    if loss == "mega_batch_margin":
        columns = 2
    vectors = [torch.randn(ROWS, DIMENSIONS) for _ in range(columns)]
    if shape == "score":
        return vectors, torch.tensor([0.0, 1.0] * (ROWS // 2))
    if shape == "label":
        return vectors, torch.tensor([0, 0, 1, 1] * (ROWS // 4))
    if loss in ("margin_mse", "distill_kl_div"):
        return vectors, torch.randn(ROWS, 2)
    if loss in ("mse", "cosine", "l2"):
        return vectors, torch.randn(ROWS, DIMENSIONS)
    if loss == "gist_embed":
        return vectors, torch.randn(ROWS * columns, DIMENSIONS)
    return vectors, None


@pytest.mark.parametrize(("shape", "name"), EVERY)
def test_a_loss_is_row_wise_if_the_mean_of_two_halves_is_the_whole(shape: str, name: str) -> None:
    loss = build_vector_loss(shape, name)
    vectors, target = vectors_and_target(shape, name)
    whole = float(loss(vectors, target))
    halves = []
    for half in (slice(0, ROWS // 2), slice(ROWS // 2, ROWS)):
        part = target
        if target is not None and name == "gist_embed":
            part = torch.cat([column[half] for column in torch.split(target, ROWS)])
        elif target is not None:
            part = target[half]
        halves.append(float(loss([each[half] for each in vectors], part)))
    equal = sum(halves) / 2 == pytest.approx(whole, rel=1e-5)
    assert equal == LOSSES[name].is_row_wise(LossConfig())


@pytest.mark.parametrize(("shape", "name"), EVERY)
def test_with_orthogonality_no_loss_is_row_wise(shape: str, name: str) -> None:
    assert not LOSSES[name].is_row_wise(LossConfig(orthogonality=0.1))
