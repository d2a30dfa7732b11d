from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tunetrail.learning.lightning_internals import TrainingProgressBar, scale_batches

BATCHES = 4
EPOCHS = 2

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


class Network(lightning.LightningModule):
    """Notes the batches that it is given, as (epoch, index in the epoch)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.seen: list[tuple[int, int]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch_idx))
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ResumableLoader(DataLoader[Tensor]):
    """Leaves out the batches that a checkpoint says are done."""

    done = skipped = 0

    def __iter__(self) -> Any:
        skipped, self.skipped = self.skipped, 0
        return self._batches(skipped)

    def _batches(self, skipped: int) -> Iterator[Tensor]:
        for index, batch in enumerate(super().__iter__()):
            if index >= skipped:
                self.done = (index + 1) % len(self)
                yield batch

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped = state["done"]


class SaveAt(lightning.Callback):
    """Saves a checkpoint after an optimizer step."""

    def __init__(self, step: int, file: Path) -> None:
        self.step = step
        self.file = file

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        accumulate = trainer.accumulate_grad_batches
        if trainer.global_step == self.step and (batch_idx + 1) % accumulate == 0:
            trainer.save_checkpoint(self.file)


def train(
    folder: Path, parts: int, *callbacks: lightning.Callback, resume: Path | None = None
) -> Network:
    """Train with each batch cut into `parts`, all of which make a step."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        accumulate_grad_batches=parts,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
    )
    module, loader = Network(), ResumableLoader(torch.ones(BATCHES * parts, 1))  # type: ignore[arg-type]
    trainer.fit(module, loader, ckpt_path=resume, weights_only=True)
    return module


def fit_loop_of(folder: Path, parts: int, step: int) -> dict[str, Any]:
    """Return what a real checkpoint holds of the fit loop."""
    train(folder, parts, SaveAt(step, folder / "saved.ckpt"))
    fit_loop: dict[str, Any] = torch.load(folder / "saved.ckpt", weights_only=True)["loops"][
        "fit_loop"
    ]
    return fit_loop


@pytest.mark.parametrize("step", [1, 3, 4, 6, 8])
@pytest.mark.parametrize(("parts_before", "parts"), [(1, 2), (2, 1), (2, 3), (1, 1)])
def test_scaled_counts_are_those_of_a_training_with_these_parts(
    tmp_path: Path, step: int, parts_before: int, parts: int
) -> None:
    fit_loop = fit_loop_of(tmp_path / "before", parts_before, step)
    expected = fit_loop_of(tmp_path / "after", parts, step)

    scale_batches(fit_loop, parts, parts_before)

    assert fit_loop["epoch_loop.batch_progress"] == expected["epoch_loop.batch_progress"]
    assert fit_loop["state_dict"]["combined_loader"] == expected["state_dict"]["combined_loader"]
    # Nothing else of the loop counts micro-batches.
    assert fit_loop == expected


@pytest.mark.parametrize("step", [1, 3, 4, 6, 8])
@pytest.mark.parametrize(("parts_before", "parts"), [(1, 2), (2, 1), (2, 3)])
def test_a_training_resumes_after_the_same_step_in_other_parts(
    tmp_path: Path, step: int, parts_before: int, parts: int
) -> None:
    file = tmp_path / "saved.ckpt"
    train(tmp_path, parts_before, SaveAt(step, file))
    checkpoint = torch.load(file, weights_only=True)

    scale_batches(checkpoint["loops"]["fit_loop"], parts, parts_before)
    torch.save(checkpoint, file)
    module = train(tmp_path, parts, resume=file)

    whole = train(tmp_path, parts)
    assert module.seen == whole.seen[step * parts :]


def test_a_checkpoint_of_lightning_has_the_counts_that_are_scaled(tmp_path: Path) -> None:
    fit_loop = fit_loop_of(tmp_path, 1, step=BATCHES + 1)

    progress = fit_loop["epoch_loop.batch_progress"]
    stages = {"ready", "started", "processed", "completed"}
    assert set(progress["total"]) == set(progress["current"]) == stages
    assert progress["total"]["processed"] == BATCHES + 1
    assert progress["current"]["processed"] == 1
    assert fit_loop["state_dict"]["combined_loader"] == [{"done": 1}]


def test_a_batch_that_has_just_ended_is_not_counted_as_completed() -> None:
    """Lightning counts it after the hooks in which a checkpoint is saved."""
    counts = {"ready": 6, "started": 6, "processed": 6, "completed": 5}
    fit_loop = {
        "epoch_loop.batch_progress": {"total": dict(counts), "current": dict(counts)},
        "state_dict": {"combined_loader": [{"epoch": 1, "done": 6}]},
    }

    scale_batches(fit_loop, parts=3, parts_before=2)

    scaled = {"ready": 9, "started": 9, "processed": 9, "completed": 8}
    assert fit_loop["epoch_loop.batch_progress"] == {"total": scaled, "current": scaled}
    assert fit_loop["state_dict"] == {"combined_loader": [{"epoch": 1, "done": 9}]}


def test_a_loader_without_a_state_needs_no_scaling() -> None:
    counts = {"ready": 2, "completed": 1}
    fit_loop = {
        "epoch_loop.batch_progress": {"total": dict(counts), "current": dict(counts)},
        "state_dict": {},
    }

    scale_batches(fit_loop, parts=2, parts_before=1)

    assert fit_loop["epoch_loop.batch_progress"]["total"] == {"ready": 4, "completed": 3}


@pytest.mark.parametrize(("max_epochs", "shown"), [(2, "epoch 1 of 2"), (-1, "epoch 1  ")])
def test_the_progress_bar_counts_epochs_from_one(
    max_epochs: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = lightning.Trainer(
        max_epochs=max_epochs,
        max_steps=1,
        callbacks=[TrainingProgressBar(leave=True)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        accelerator="cpu",
    )

    trainer.fit(Network(), DataLoader(torch.zeros(BATCHES, 1)))

    assert f"{shown} " in capsys.readouterr().out
