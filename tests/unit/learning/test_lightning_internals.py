from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tunetrail.learning.lightning_internals import (
    begun_optimizer_steps,
    finished_batches,
    loops_at,
    validate_before_training,
)

BATCHES = 4


class Network(lightning.LightningModule):
    """Takes an optimizer step in every batch but the first, and counts its validations."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layer = nn.Linear(1, 1)
        self.validated = 0
        self.seen: list[tuple[int, int]] = []

    def training_step(self, batch: Tensor, batch_index: int) -> None:
        optimizer: Any = self.optimizers()
        if batch_index:
            self.manual_backward(self.layer(batch).sum())
            optimizer.step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((finished_batches(self.trainer), begun_optimizer_steps(self.trainer)))

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.validated += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StatefulLoader(DataLoader[Tensor]):
    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        assert state == {"epoch": 0, "done": BATCHES}


class ValidateFirst(lightning.Callback):
    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        validate_before_training(trainer)
        assert isinstance(pl_module, Network)
        assert (pl_module.validated, trainer.training) == (BATCHES, True)


def train(
    folder: Path, *callbacks: lightning.Callback, epochs: int = 2, resume: Path | None = None
) -> tuple[Network, lightning.Trainer]:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )
    module, loader = Network(), StatefulLoader(torch.ones(BATCHES, 1))
    trainer.fit(module, loader, loader, ckpt_path=resume, weights_only=True)
    return module, trainer


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def test_finished_batches_and_begun_steps_are_counted_from_the_start(tmp_path: Path) -> None:
    module, _ = train(tmp_path)

    # The first batch of each of the two epochs takes no step.
    assert module.seen == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 3), (6, 4), (7, 5), (8, 6)]


def test_validate_before_training_leaves_the_whole_epoch_to_do(tmp_path: Path) -> None:
    module, trainer = train(tmp_path, ValidateFirst(), epochs=1)

    assert finished_batches(trainer) == BATCHES
    assert module.validated == 2 * BATCHES


def test_loops_at_names_every_state_that_the_fit_loop_has(tmp_path: Path) -> None:
    _, trainer = train(tmp_path)
    state = trainer.fit_loop.state_dict()

    changed = loops_at(state, epoch=1, batches=BATCHES, finished=8, is_last=True)

    assert set(changed) == set(state)
    for name in (
        "epoch_progress",
        "epoch_loop.batch_progress",
        "epoch_loop.val_loop.batch_progress",
    ):
        assert set(changed[name]) == set(state[name])
        assert set(changed[name]["total"]) == set(state[name]["total"])
    assert (
        changed["epoch_loop.batch_progress"]["total"] == state["epoch_loop.batch_progress"]["total"]
    )
    assert changed["epoch_loop.batch_progress"]["is_last_batch"] is True


def test_loops_at_is_where_a_resumed_training_continues(tmp_path: Path) -> None:
    _, trainer = train(tmp_path, epochs=1)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    checkpoint = torch.load(tmp_path / "end.ckpt", weights_only=True)
    fit_loop = checkpoint["loops"]["fit_loop"]
    checkpoint["loops"]["fit_loop"] = loops_at(
        fit_loop, epoch=0, batches=BATCHES, finished=BATCHES, is_last=True
    )
    torch.save(checkpoint, tmp_path / "changed.ckpt")

    module, _ = train(tmp_path, epochs=2, resume=tmp_path / "changed.ckpt")

    assert [finished for finished, _ in module.seen] == [5, 6, 7, 8]
