"""GradCache: a batch in pieces has the loss and the gradient of the whole, dropout included."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.families import assert_close, gradients
from torch import Tensor

from tunetrail.learning.embedding.data import EmbeddingBatch
from tunetrail.learning.embedding.encoder import TextColumn
from tunetrail.learning.embedding.module import EmbeddingModule, cut
from tunetrail.learning.training.micro_batches import SharedBatch

ROWS = 7
LEFT = [f"question {'why ' * (n % 3)}{n}" for n in range(ROWS)]
RIGHT = [f"answer {'so ' * (n % 4)}{n * 7}" for n in range(ROWS)]
NEGATIVES = ["no", "not this one either"]
DROPOUT = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}

Build = Callable[..., EmbeddingModule]


@pytest.fixture
def build(encoder_folder: Callable[..., str]) -> Build:
    def built(
        shape: str, loss: str, mini_batch_size: int, dropout: bool, **settings: Any
    ) -> EmbeddingModule:
        path = encoder_folder("bert", include_prompt=False, **(DROPOUT if dropout else {}))
        return EmbeddingModule(
            model=path,
            shape=shape,
            loss=loss,
            mini_batch_size=mini_batch_size,
            max_length=64,
            **settings,
        )

    return built


def batch(shape: str, *, negatives: int = 0, prompts: tuple[str, str] = ("", "")) -> EmbeddingBatch:
    targets: dict[str, Any] = {
        "score": torch.linspace(-1, 1, ROWS),
        "label": torch.tensor([0, 1, 2, 0, 1, 2, 0]),
        "vector": torch.linspace(-1, 1, ROWS * 32).view(ROWS, 32),
    }
    columns = [TextColumn(texts=LEFT, prompt=prompts[0])]
    if shape in ("pair", "score"):
        columns.append(TextColumn(texts=RIGHT, prompt=prompts[1]))
    if shape == "text":
        columns *= 2
    if negatives:
        columns.append(TextColumn(texts=(NEGATIVES * ROWS)[:negatives], prompt=prompts[1]))
    return EmbeddingBatch(
        columns=tuple(columns), target=targets.get(shape), rows=tuple(range(ROWS)), shape=shape
    )


def one_graph_gradients(
    module: EmbeddingModule, micro_batch: EmbeddingBatch, scale: float
) -> tuple[float, dict[str, Tensor]]:
    """Compute the loss with one graph, each piece with the dropout that it has in GradCache."""
    module.train()
    module.zero_grad()

    pieces = list(map(module.encoder, cut(micro_batch.columns, module.mini_batch_size)))
    vectors = [torch.cat(column) for column in zip(*pieces, strict=True)]
    loss = module._loss(micro_batch, vectors)
    (loss * scale).backward()

    parameters = module.named_parameters()
    return float(loss.detach()), {
        name: weight.grad.clone() for name, weight in parameters if weight.grad is not None
    }


CASES = [
    ("pair", "multiple_negatives_ranking", {}),
    ("pair", "multiple_negatives_ranking", {"negatives": 2}),
    ("pair", "multiple_negatives_ranking", {"negatives": 2, "prompts": ("ask: ", "reply with: ")}),
    ("pair", "multiple_negatives_symmetric_ranking", {}),
    ("pair", "triplet", {"negatives": ROWS}),
    ("score", "cosent", {}),
    ("score", "cosine_similarity", {}),
    ("label", "supervised_contrastive", {}),
    ("vector", "mse", {}),
    ("text", "simcse", {}),
]


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize(("shape", "loss", "columns"), CASES)
def test_pieces_have_the_loss_and_gradient_of_one_graph_to_the_last_bit(
    build: Build, shape: str, loss: str, columns: dict[str, Any], dropout: bool
) -> None:
    module, micro_batch = build(shape, loss, 3, dropout), batch(shape, **columns)
    torch.manual_seed(5)
    loss, cached = gradients(module, micro_batch, scale=0.25)
    torch.manual_seed(5)
    expected_loss, expected = one_graph_gradients(module, micro_batch, 0.25)
    assert loss == expected_loss
    assert cached.keys() == expected.keys()
    assert all(torch.equal(cached[name], expected[name]) for name in expected)


@pytest.mark.parametrize(("shape", "loss", "columns"), CASES)
def test_pieces_equal_the_whole_batch_without_dropout(
    build: Build, shape: str, loss: str, columns: dict[str, Any]
) -> None:
    micro_batch = batch(shape, **columns)
    module = build(shape, loss, 0, dropout=False)
    expected_loss, expected = gradients(module, micro_batch)

    for mini_batch_size in (1, 3, 6):
        module.mini_batch_size = mini_batch_size
        found_loss, found = gradients(module, micro_batch)

        assert found_loss == pytest.approx(expected_loss, rel=1e-4)
        assert_close(found, expected)


def test_pieces_equal_the_whole_batch_with_matryoshka_around_the_loss(build: Build) -> None:
    micro_batch = batch("pair", negatives=2)
    (found_loss, found), (expected_loss, expected) = (
        gradients(
            build(
                "pair",
                "auto",
                rows,
                dropout=False,
                matryoshka_dimensions=[8, 16],
                matryoshka_weights=[0.5, 2.0],
            ),
            micro_batch,
        )
        for rows in (3, 0)
    )
    assert found_loss == pytest.approx(expected_loss, rel=1e-4)
    assert_close(found, expected)


def test_pieces_draw_dropout_of_their_own(build: Build) -> None:
    module = build("text", "simcse", 3, dropout=True)
    module.train()

    torch.manual_seed(0)
    one, other = module._vectors(batch("text"))
    torch.manual_seed(0)
    again, _ = module._vectors(batch("text"))

    assert torch.equal(one, again)
    assert float((one - other).detach().abs().max()) > 0.1  # two views of the same texts


def test_pieces_count_their_tokens_once(build: Build) -> None:
    whole, pieces = build("pair", "auto", 0, dropout=False), build("pair", "auto", 2, dropout=False)
    costs = []
    for module in (whole, pieces):
        shared = SharedBatch(batch("pair"))
        module.train().loss_of(shared).backward()
        module.loss_of(shared)
        costs.append(module.cost_of(shared))
    assert costs[0].tokens == costs[1].tokens > 0
