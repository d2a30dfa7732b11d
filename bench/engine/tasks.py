"""What both sides are given and what each gives back: one training, said once for tunetrail and for its peer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.engine.clock import StepClock, Window
from tunetrail.config import TrackingConfig, TrainingConfig
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker

WARMUP_SHARE = 0.1
WEIGHT_DECAY = 0.01
MAX_GRAD_NORM = 1.0
SEED = 42


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One training: the same model, rows, batch size, epochs, schedule and optimizer (AdamW) on both sides.

    The first epoch is the warm-up and isn't timed; in the others each row is seen once per epoch by
    either side.

    Attributes:
        model: Folder of the model.
        train: JSONL file of the rows.
        held_out: JSONL file of the rows that the loss is measured on, before and after.
        shape: Of the rows.
        rows: How many there are to train on; a multiple of `batch_size`.
        batch_size: Rows per optimizer step.
        epochs: At least 2.
        max_length: Tokens; the rest of a text is cut off.
        learning_rate: Peak of the schedule: linear warm-up over a tenth of the steps, linear decay.
        loss: tunetrail's name of an embedding loss.
        mini_batch_size: Above 0: the cached loss, in pieces of so many rows.
        adapter: `lora` or `none`.
        seed: Of order and dropout.
    """

    model: str
    train: str
    held_out: str
    shape: str
    rows: int
    batch_size: int
    epochs: int
    max_length: int
    learning_rate: float
    loss: str = "auto"
    mini_batch_size: int = 0
    adapter: str = "none"
    seed: int = SEED

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.epochs * (self.rows // self.batch_size)

    @property
    def logging_steps(self) -> int:
        """Losses are reported eight times."""
        return max(1, self.steps // 8)

    @property
    def warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        return warmup_of(self.steps)

    def training(self) -> TrainingConfig:
        """Return tunetrail's hyper-parameters for it."""
        return TrainingConfig(
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            num_epochs=self.epochs,
            warmup_steps=self.warmup_steps,
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=MAX_GRAD_NORM,
            logging_steps=self.logging_steps,
            schedule="linear",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return its values, JSON-serialisable."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one training did.

    Attributes:
        rows: Rows that were trained on in the timed steps.
        tokens: Their tokens, without padding.
        supervised: Tokens of them that a language model learns; 0 for an embedding model.
        flops: Floating-point operations that they need.
        window: The timed steps.
        peak_flops: FLOP/s of the machine in this process, the better of before and after the
            training.
        memory: Largest resident set of the process up to the end of the training, in bytes.
        losses: (step, training loss) as the trainer reported them.
        held_out_loss: After the training, on the held-out rows; the same measure for both sides.
    """

    rows: int
    tokens: int
    supervised: int
    flops: float
    window: Window
    peak_flops: float
    memory: int
    losses: Sequence[tuple[int, float]]
    held_out_loss: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything, with what follows from it, JSON-serialisable."""
        seconds, computed = self.window.seconds, self.window.computed_tokens
        return {
            "rows": self.rows,
            "tokens": self.tokens,
            "supervised_tokens": self.supervised,
            "steps": self.window.steps,
            "seconds": seconds,
            "rows_per_second": self.rows / seconds,
            "tokens_per_second": self.tokens / seconds,
            "padding_share": 1.0 - self.tokens / computed,
            "mfu": self.flops / seconds / self.peak_flops,
            "peak_gflops": self.peak_flops / 1e9,
            "memory": self.memory,
            "losses": [list(pair) for pair in self.losses],
            "held_out_loss": self.held_out_loss,
        }


def warmup_of(steps: int) -> int:
    """Return the steps in which the learning rate rises."""
    return int(steps * WARMUP_SHARE)


def timed(clock: StepClock, epochs: int) -> Window:
    """Return the window of all epochs but the first."""
    per_epoch, rest = divmod(clock.steps, epochs)
    if rest:
        raise ValueError(
            f"{epochs} epochs must have equally many steps each, got {clock.steps} steps."
        )
    return clock.last(per_epoch * (epochs - 1))


def tracked_run(folder: Path) -> TrackedRun:
    """Return a run in an MLflow store of its own, as every training of `tunetrail train` has one."""
    config = TrackingConfig(
        uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "artifacts")
    )
    return Tracker(config).start_run("benchmark")
