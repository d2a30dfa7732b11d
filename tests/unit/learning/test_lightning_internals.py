import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tunetrail.learning.lightning_internals import scale_batches

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Network(lightning.LightningModule):
    """Saves a checkpoint after its second step of two batches each."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.folder = folder

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).sum()
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 3:
            self.trainer.save_checkpoint(self.folder / "middle.ckpt")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class StatefulLoader(DataLoader[Tensor]):
    def state_dict(self) -> dict[str, int]:
        return {"done": 4}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take no notice."""


@pytest.fixture
def fit_loop(tmp_path: Path) -> dict[str, Any]:
    """What a checkpoint in the middle of an epoch holds for the fit loop."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Network(tmp_path), StatefulLoader(torch.ones(6, 1)))
    checkpoint = torch.load(tmp_path / "middle.ckpt", weights_only=True)
    loops: dict[str, Any] = checkpoint["loops"]["fit_loop"]
    return loops


def test_scale_batches_counts_parts(fit_loop: dict[str, Any]) -> None:
    scaled = copy.deepcopy(fit_loop)

    scale_batches(scaled, parts=3, parts_before=1)

    progress = fit_loop["epoch_loop.batch_progress"]
    # The hook runs before Lightning counts the batch as completed.
    assert (progress["current"]["processed"], progress["current"]["completed"]) == (4, 3)
    counts = scaled["epoch_loop.batch_progress"]["current"]
    assert (counts["ready"], counts["processed"]) == (12, 12)
    assert scaled["state_dict"]["combined_loader"] == [{"done": 12}]


def test_scale_batches_takes_parts_back(fit_loop: dict[str, Any]) -> None:
    scaled = copy.deepcopy(fit_loop)

    scale_batches(scaled, parts=4, parts_before=2)

    counts = scaled["epoch_loop.batch_progress"]["current"]
    # Two micro-batches of two parts each; the last part isn't completed yet.
    assert (counts["processed"], counts["completed"]) == (8, 7)
    assert scaled["state_dict"]["combined_loader"] == [{"done": 8}]


def test_scale_batches_leaves_an_equal_number_of_parts(fit_loop: dict[str, Any]) -> None:
    scaled = copy.deepcopy(fit_loop)
    scale_batches(scaled, parts=2, parts_before=2)
    assert scaled == fit_loop
