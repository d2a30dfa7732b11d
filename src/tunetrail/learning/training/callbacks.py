"""Lightning callbacks that report a training: learning curves and cost, handed out in batches."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EarlyStopping

from tunetrail.learning.flops import peak_flops

MetricsSink = Callable[[Mapping[str, float], int], None]
"""Takes metrics by name and the optimizer step that they belong to."""

_DTYPES = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16}
_GIB = 2.0**30


class MetricsReporter(lightning.Callback):
    """Hands out curves and cost of the training every `every` steps, and each validation's loss.

    Of the steps since the last report: mean `train/loss`, the last `train/learning_rate` and `train/gradient_norm`,
    `train/tokens_per_second` (real tokens; validations not counted), `train/padding_share` of the tokens computed,
    `train/mfu` (operations that the real tokens need over those that the device could have done, measured) and
    `train/memory_gib` (of the device, of this process on a CPU).

    Attributes:
        history: All that was handed out: per metric the (step, value) pairs.
    """

    def __init__(self, sink: MetricsSink, every: int) -> None:
        self.sink = sink
        self.every = every
        self.history: dict[str, list[tuple[int, float]]] = {}
        self._losses: list[torch.Tensor] = []
        self._tokens, self._flops = (
            0,
            0.0,
        )  # since the clock was started: by a resumed training, too
        self._real, self._computed = 0, 0  # since the last report
        self._since = 0.0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Start the clock; the device's peak is measured outside of it."""
        peak_flops(pl_module.device.type, _DTYPES.get(str(trainer.precision), torch.float32))
        self._since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report on the first step, and then every `every` steps; a step that was skipped counts as time only."""
        if outputs.get("skipped"):
            return
        self._losses.append(outputs["loss"])
        self._tokens += outputs["tokens"]
        self._real += outputs["tokens"]
        self._computed += outputs["computed"]
        self._flops += outputs["flops"]
        step = trainer.global_step
        if step > 1 and step % self.every:
            return
        seconds = time.perf_counter() - self._since
        peak = peak_flops(pl_module.device.type, _DTYPES.get(str(trainer.precision), torch.float32))
        metrics = {
            "train/loss": float(
                torch.stack([each.to(outputs["loss"].device) for each in self._losses]).mean()
            ),
            "train/learning_rate": trainer.optimizers[0].param_groups[-1]["lr"],
            "train/gradient_norm": float(outputs["gradient_norm"]),
            "train/tokens_per_second": self._tokens / seconds,
            "train/padding_share": 1.0 - self._real / max(self._computed, 1),
            "train/mfu": self._flops / seconds / peak,
            "train/memory_gib": _memory(pl_module.device) / _GIB,
        }
        self._losses.clear()
        self._tokens, self._real, self._computed, self._flops = 0, 0, 0, 0.0
        self.report(metrics, step)  # last: should the sink fail, the step is done all the same
        self._since = time.perf_counter()

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Stop the clock."""
        self._since -= time.perf_counter()

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Report the validation loss, and let the clock go on."""
        self._since += time.perf_counter()
        found = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/")
        }
        if found and not trainer.sanity_checking:
            self.report(found, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the history, and the losses and tokens that are still to be reported, for a checkpoint."""
        return {
            "history": {
                name: [list(pair) for pair in pairs] for name, pairs in self.history.items()
            },
            "losses": [float(loss) for loss in self._losses],
            "tokens": [self._real, self._computed],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint."""
        self.history = {
            name: [(int(step), float(value)) for step, value in pairs]
            for name, pairs in state_dict["history"].items()
        }
        self._losses = [torch.tensor(loss) for loss in state_dict["losses"]]
        self._real, self._computed = state_dict["tokens"]

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        """Hand out metrics, and keep them in the history."""
        for name, value in metrics.items():
            self.history.setdefault(name, []).append((step, value))
        self.sink(metrics, step)


class StopWithoutProgress(EarlyStopping):
    """Early stopping to which a validation without a finite loss counts for nothing: the guard rewinds it."""

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Count the validation."""
        if math.isfinite(trainer.callback_metrics.get(self.monitor, math.nan)):
            super().on_validation_end(trainer, pl_module)


class EndAtStep(lightning.Callback):
    """Ends a training after so many steps as early stopping would, so that the last weights are validated, too.

    Lightning's own `max_steps` leaves in the middle of an epoch, and a resumed training could no more validate.

    Args:
        steps: Optimizer steps of the training; not above 0: no limit.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Ask the trainer to stop."""
        if 0 < self.steps <= trainer.global_step:
            trainer.should_stop = True


def _memory(device: torch.device) -> float:
    """Return bytes: the most that a GPU held so far, or what this process holds now."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(psutil.Process().memory_info().rss)
