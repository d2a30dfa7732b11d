import math
from collections.abc import Mapping
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader

from tunetrail.learning.training.callbacks import MetricsReporter
from tunetrail.learning.training.module import ComputeCost


class Line(lightning.LightningModule):
    """Learns y = 2x."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor, batch_index: int) -> dict[str, Any]:
        loss = (self.layer(batch) - 2 * batch).square().mean()
        norm = torch.autograd.grad(loss, self.layer.weight, retain_graph=True)[0].norm()
        self.gradient_norm = norm
        cost = ComputeCost(tokens=3, computed=4, flops=1e6)
        return {"loss": loss, "window_loss": loss.detach(), "cost": cost}

    def validation_step(self, batch: torch.Tensor, batch_index: int) -> None:
        self.log("val/loss", (self.layer(batch) - 2 * batch).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run(
    callback: lightning.Callback, numbers: list[float], epochs: int = 1, sanity: int = 0
) -> lightning.Trainer:
    data = DataLoader(torch.tensor(numbers)[:, None])  # type: ignore[arg-type]
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=sanity,
        callbacks=[callback],
        log_every_n_steps=1,
    )
    trainer.fit(Line(), data, data)
    return trainer


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (2, [1, 2, 4, 6]), (5, [1, 5]), (100, [1])]
)
def test_reporter_hands_out_the_first_step_and_every_nth(every: int, steps: list[int]) -> None:
    received: list[tuple[int, dict[str, float]]] = []
    reporter = MetricsReporter(lambda metrics, step: received.append((step, dict(metrics))), every)
    run(reporter, [1.0, 2.0, 3.0], epochs=2, sanity=2)
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
