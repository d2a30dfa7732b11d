import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from tunetrail.config import TrainingConfig
from tunetrail.learning.embedding.data import EmbeddingDataModule
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.fitting import fit
from tunetrail.learning.recovery.checkpoints import LastCheckpoint
from tunetrail.learning.training_plan import TrainingPlan

PAIRS = [{"anchor": f"question {n}", "positive": f"the answer is {n * 7}"} for n in range(16)]


class InsideTheOptimizer(EmbeddingModule):
    """Gets its signals where a step is half done."""

    signals: Mapping[int, list[int]]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        for number in self.signals.get(self.trainer.global_step, []):
            os.kill(os.getpid(), number)


def stopped(path: str, folder: Path, signals: Mapping[int, list[int]]) -> None:
    module = InsideTheOptimizer(model=path, shape="pair", optimization={"learning_rate": 1e-3})
    module.signals = signals
    data = EmbeddingDataModule(train=PAIRS, validation=PAIRS, shape="pair", batch_size=4)
    fit(
        module,
        data,
        TrainingConfig(num_epochs=2, validations_per_epoch=1),
        TrainingPlan(folder=folder, on_metrics=lambda metrics, step: None),
        seed=0,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_within_a_step_stops_behind_it_with_a_checkpoint(
    tiny_embedding_model: str, tmp_path: Path, number: int
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(SystemExit):
        stopped(tiny_embedding_model, tmp_path, {2: [number]})
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 3
    assert {each: signal.getsignal(each) for each in before} == before


def test_a_second_signal_stops_at_once(tiny_embedding_model: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):  # what Lightning makes of the interrupt
        stopped(tiny_embedding_model, tmp_path, {2: [signal.SIGINT, signal.SIGINT]})
    assert not (
        tmp_path / "checkpoints" / "last.ckpt"
    ).exists()  # the step was half done: nothing can be saved of it


def test_the_process_own_handler_has_the_last_word(
    tiny_embedding_model: str, tmp_path: Path
) -> None:
    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before: Callable[..., object] | int | None = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit) as caught:
            stopped(tiny_embedding_model, tmp_path, {1: [signal.SIGTERM]})
        assert caught.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_signals_are_not_taken_outside_of_a_training(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    LastCheckpoint(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
