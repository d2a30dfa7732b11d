import copy

import pytest
import torch
from torch import Tensor, nn

from tunetrail.learning.cpu_layers.tied_embedding import (
    TiedEmbedding,
    restore_embedding,
    tie_gradients,
)

WORDS, WIDTH = 50, 8
IDS = torch.tensor([[3, 7, 3, 0, 49, 7, 7, 1]])


class Model(nn.Module):
    def __init__(self, padding: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(WORDS, WIDTH, padding_idx=padding)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids).sin()).logsumexp(dim=-1).sum()


def tied(model: Model) -> Model:
    tie_gradients(model.embedding, model.head)
    assert type(model.embedding) is TiedEmbedding
    return model


@pytest.mark.parametrize("padding", [None, 7])
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_are_those_of_torch(padding: int | None, steps: int) -> None:
    plain, tied_model = Model(padding), tied(Model(padding))

    for model in (plain, tied_model):
        for step in range(steps):  # they add up
            model((IDS + step) % WORDS).backward()
    torch.testing.assert_close(tied_model.embedding.weight.grad, plain.embedding.weight.grad)
    assert not tied_model.embedding.weight._backward_hooks


def test_two_losses_of_one_backward_pass_and_one_without_a_backward_pass() -> None:
    plain, tied_model = Model(), tied(Model())

    lost = tied_model(IDS)  # never goes backwards
    assert lost.requires_grad and not tied_model.embedding.weight._backward_hooks

    for model in (plain, tied_model):
        (model(IDS) + model(IDS.flip(1)[:, :3]) * 2).backward()
    torch.testing.assert_close(tied_model.embedding.weight.grad, plain.embedding.weight.grad)


def test_a_backward_pass_that_fails_leaves_nothing_for_the_next() -> None:
    plain, tied_model = Model(), tied(Model())

    def fail(gradient: Tensor) -> None:
        raise torch.OutOfMemoryError("full")

    handle = tied_model.embedding.weight.register_hook(fail)  # before the rows are added
    with pytest.raises(torch.OutOfMemoryError):
        tied_model(IDS).backward()
    handle.remove()
    for model in (plain, tied_model):
        model.zero_grad()
        model((IDS + 1) % WORDS).backward()
    torch.testing.assert_close(tied_model.embedding.weight.grad, plain.embedding.weight.grad)
    assert not tied_model.embedding.weight._backward_hooks


def test_a_graph_can_go_backwards_twice() -> None:
    plain, tied_model = Model(), tied(Model())

    for model in (plain, tied_model):
        loss = model(IDS)
        loss.backward(retain_graph=True)
        loss.backward()
    torch.testing.assert_close(tied_model.embedding.weight.grad, plain.embedding.weight.grad)


def test_a_backward_pass_without_the_head_says_so() -> None:
    with pytest.raises(RuntimeError, match="must have a gradient from the head, got none"):
        tied(Model()).embedding(IDS).sum().backward()


def test_no_matrix_of_zeros_is_made() -> None:
    model = tied(Model())

    loss = model(IDS)
    with torch.profiler.profile(record_shapes=True) as profile:
        loss.backward()
    made = [
        event.name
        for event in profile.events()
        if "embedding" in event.name or event.name == "aten::zeros"
    ]
    assert made == []


def test_copies_learn_by_themselves() -> None:
    model = tied(Model())

    model(IDS)
    copied, plain = copy.deepcopy(model), Model()
    for copy_of_model in (copied, plain):
        copy_of_model(IDS).backward()
    torch.testing.assert_close(copied.embedding.weight.grad, plain.embedding.weight.grad)
    assert model.embedding.weight.grad is None


def test_other_embeddings_stay_as_they_are() -> None:
    model, frozen = Model(), Model()
    tie_gradients(model.embedding, nn.Linear(WIDTH, WORDS))

    assert type(model.embedding) is nn.Embedding

    frozen.requires_grad_(False)
    tie_gradients(frozen.embedding, frozen.head)
    assert type(frozen.embedding) is nn.Embedding


def test_afterwards_the_embedding_is_torchs_again() -> None:
    model = tied(Model())
    restore_embedding(model.embedding)
    assert type(model.embedding) is nn.Embedding
    with torch.no_grad():
        assert torch.equal(tied(model).embedding(IDS), Model().embedding(IDS))
