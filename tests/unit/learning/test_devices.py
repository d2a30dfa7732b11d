import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tunetrail.config import EmbeddingConfig, LanguageModelConfig, TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import BatchesConfig
from tunetrail.errors import ConfigError
from tunetrail.learning.devices import check_batch, computing_device, placed_on
from tunetrail.learning.embedding.learner import EmbeddingLearner
from tunetrail.learning.language_model.learner import LanguageModelLearner
from tunetrail.learning.models.generation import TextWriter

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
TEXTS = ["one text", "another text that is longer", "a third"]
RECORDS = [{"input": f"question {n}", "output": f"answer {n}"} for n in range(5)]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


class Moved(nn.Linear):
    """A layer that notes where it is moved to, and stays where it is."""

    def __init__(self, room: bool = True, device: torch.device = CPU) -> None:
        super().__init__(2, 2, device=device)
        self.room = room
        self.moves: list[torch.device] = []

    def to(self, device: Any) -> Any:
        self.moves.append(device)
        if device == GPU and not self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self


def noting_moves(model: Any, moves: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a machine seem to have a GPU, while the model stays on the CPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def to(device: torch.device) -> Any:
        moves.append(device)
        return model

    monkeypatch.setattr(model, "to", to)
    return model


def test_a_model_computes_on_the_device_and_goes_back() -> None:
    model = Moved()
    with placed_on(GPU, model):
        assert model.moves == [GPU]
    assert model.moves == [GPU, CPU]


def test_a_model_goes_back_after_an_error() -> None:
    model = Moved()
    with pytest.raises(KeyError), placed_on(GPU, model):
        raise KeyError("scores")
    assert model.moves == [GPU, CPU]


@pytest.mark.parametrize(("device", "home"), [(CPU, CPU), (CPU, torch.device("meta"))])
def test_a_model_stays_that_is_there_or_on_a_device_of_its_own(
    device: torch.device, home: torch.device
) -> None:
    model = Moved(device=home)
    with placed_on(device, model):
        pass
    assert model.moves == []


def test_a_model_without_room_computes_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tunetrail")
    model = Moved(room=False)
    with placed_on(GPU, model):
        assert model.moves == [GPU, CPU]
    assert "the model doesn't fit into the free memory of cuda:0" in caplog.text


def test_a_rank_computes_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert computing_device(TrainerConfig()) == GPU
    assert computing_device(TrainerConfig(accelerator="cpu")) == CPU
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert computing_device(TrainerConfig(accelerator="gpu")) == torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert computing_device(TrainerConfig()) == CPU


def test_texts_are_encoded_on_the_gpu(
    tiny_embedding_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = EmbeddingLearner(config=EmbeddingConfig(), shape="pair", seed=0)
    moves: list[torch.device] = []
    model = learner.load(tiny_embedding_model)
    expected = learner.vectors(model, TEXTS)
    vectors = learner.vectors(noting_moves(model, moves, monkeypatch), TEXTS)
    assert moves == [GPU, CPU]
    assert np.array_equal(vectors, expected)


def test_rows_are_scored_and_written_on_the_gpu(
    tiny_language_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = LanguageModelLearner(config=LanguageModelConfig(), seed=0)
    moves: list[torch.device] = []
    model = learner.load(tiny_language_model)
    expected = learner.likelihoods(model, RECORDS, 2)
    noting_moves(model.model, moves, monkeypatch)

    likelihoods = learner.likelihoods(model, RECORDS, 2)
    assert moves == [GPU, CPU]
    assert np.array_equal(likelihoods.nats, expected.nats)

    device = computing_device(learner.trainer)
    TextWriter(model=model, seed=0, max_new_tokens=2, device=device).write("Ask.", ["boat"])
    assert moves == [GPU, CPU] * 2


@pytest.mark.gpu
@needs_gpu
def test_vectors_and_likelihoods_of_a_gpu_are_those_of_the_cpu(
    tiny_embedding_model: str, tiny_language_model: str
) -> None:
    here, there = TrainerConfig(accelerator="cpu"), TrainerConfig(accelerator="gpu")

    def vectors(trainer: TrainerConfig) -> Any:
        learner = EmbeddingLearner(config=EmbeddingConfig(), shape="pair", seed=0, trainer=trainer)
        model = learner.load(tiny_embedding_model)
        encoded = learner.vectors(model, TEXTS)
        assert model.device == CPU
        return encoded

    def nats(trainer: TrainerConfig) -> Any:
        learner = LanguageModelLearner(config=LanguageModelConfig(), seed=0, trainer=trainer)
        model = learner.load(tiny_language_model)
        likelihoods = learner.likelihoods(model, RECORDS, 2)
        assert model.model.device == CPU
        return likelihoods.nats

    torch.cuda.reset_peak_memory_stats()
    assert vectors(there) == pytest.approx(vectors(here), abs=1e-4)
    assert nats(there) == pytest.approx(nats(here), rel=1e-4)
    assert torch.cuda.max_memory_allocated() > 0
    assert torch.cuda.memory_allocated() == 0


@pytest.mark.parametrize(
    ("training", "key"),
    [
        (TrainingConfig(batch_size=3), "batch_size"),
        (
            TrainingConfig(batch_size="auto", batches=BatchesConfig(effective_size=3)),
            r"batches\.effective_size",
        ),
    ],
)
def test_each_device_needs_a_row(training: TrainingConfig, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^llm\.training\.{key} must be .*=4.* got 3\. Raise"):
        check_batch(training, 4, "llm")
    check_batch(training, 3, "llm")
