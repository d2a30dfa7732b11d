import math
from collections.abc import Mapping
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch

from tunetrail.learning.training.batching import SeededBatchSampler
from tunetrail.learning.training.callbacks import MetricsReporter
from tunetrail.learning.training.micro_batches import (
    MicroBatchLoader,
    MicroBatchSampler,
    SharedBatch,
)
from tunetrail.learning.training.module import ComputeCost


class Number:
    """A micro-batch of one number, which weighs 1."""

    weight = 1.0

    def __init__(self, value: float) -> None:
        self.rows = (0,)
        self.value = torch.tensor([value])


class Line(lightning.LightningModule):
    """Learns y = 2x; each micro-batch costs 3 tokens, computed as 4."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.gradient_norm = torch.zeros(())
        self.window_losses: list[torch.Tensor] = []

    def loss(self, batch: SharedBatch) -> torch.Tensor:
        number = batch.batch.value
        return (self.layer(number) - 2 * number).square().mean()

    def training_step(self, batch: SharedBatch, batch_index: int) -> dict[str, Any]:
        loss = self.loss(batch)
        outputs = {"loss": loss, "cost": ComputeCost(tokens=3, computed=4, flops=1e6)}
        self.window_losses.append(loss.detach())
        if batch.ends_window:
            outputs["window_loss"] = torch.stack(self.window_losses).mean()
            self.window_losses = []
        return outputs

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        assert self.layer.weight.grad is not None
        self.gradient_norm = self.layer.weight.grad.norm()

    def validation_step(self, batch: SharedBatch, batch_index: int) -> None:
        self.log("val/loss", self.loss(batch), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run(
    callback: lightning.Callback,
    numbers: list[float],
    epochs: int = 1,
    sanity: int = 0,
    accumulate: int = 1,
) -> lightning.Trainer:
    def loader() -> MicroBatchLoader:
        batches = SeededBatchSampler([1] * len(numbers), 1, seed=0, shuffle=False)
        sampler = MicroBatchSampler(batches, accumulate=accumulate)
        return MicroBatchLoader(lambda rows: Number(numbers[rows[0]]), sampler)

    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=sanity,
        callbacks=[callback],
        log_every_n_steps=1,
    )
    trainer.fit(Line(), loader(), loader())
    return trainer


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 2, 4, 6]), (5, [1, 5]), (100, [1])]
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_reporter_hands_out_the_first_step_and_every_nth(
    every: int, steps: list[int], accumulate: int
) -> None:
    received: list[tuple[int, dict[str, float]]] = []
    reporter = MetricsReporter(lambda metrics, step: received.append((step, dict(metrics))), every)
    numbers = [1.0, 2.0, 3.0] if accumulate == 1 else [1.0, 1.0, 2.0, 2.0, 3.0]

    run(reporter, numbers, epochs=2, sanity=2, accumulate=accumulate)

    assert [step for step, metrics in received if "train/loss" in metrics] == steps
    assert [step for step, metrics in received if "val/loss" in metrics] == [3, 6]
    assert reporter.history["train/learning_rate"] == [(step, 0.01) for step in steps]
    handed_out: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in received:
        for name, value in metrics.items():
            handed_out.setdefault(name, []).append((step, value))
    assert handed_out == reporter.history


def test_reporter_reports_each_batch_own_loss() -> None:
    losses: dict[int, float] = {}

    def sink(metrics: Mapping[str, float], step: int) -> None:
        losses[step] = metrics.get("train/loss", losses.get(step, math.nan))

    run(MetricsReporter(sink, 1), [0.0, 1.0, 10.0])

    assert losses[3] > 10 * losses[2] > 0.0
    assert losses[1] < 1.0


def test_reporter_adds_up_what_the_micro_batches_of_its_steps_cost() -> None:
    reporter = MetricsReporter(lambda metrics, step: None, 2)

    run(reporter, [1.0] * 7, accumulate=2)

    assert reporter.history["train/tokens"] == [(1, 6.0), (2, 12.0), (4, 21.0)]
    shares = reporter.history["train/padding_share"]
    assert shares == [(1, 0.25), (2, 0.25), (4, 0.25)]
    operations = reporter.history["train/mfu"]
    speeds = reporter.history["train/tokens_per_second"]
    # 1e6 operations per 3 tokens, in whatever time and however many micro-batches.
    ratios = [mfu / speed for (_, mfu), (_, speed) in zip(operations, speeds, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * 3)


def test_reporter_continues_with_the_losses_and_tokens_of_a_checkpoint() -> None:
    whole = MetricsReporter(lambda metrics, step: None, 2)
    whole.load_state_dict({"history": {"a": [[1, 0.5]]}, "losses": [2.0], "tokens": [3, 4]})

    assert whole.state_dict() == {
        "history": {"a": [[1, 0.5]]},
        "losses": [2.0],
        "tokens": [3, 4],
    }
    assert whole.history == {"a": [(1, 0.5)]}
