"""Lightning callbacks: report curves and cost, stop early, and end after some steps."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from tunetrail.learning.flops import peak_flops
from tunetrail.learning.training.module import ComputeCost

MetricsSink = Callable[[Mapping[str, float], int], None]
"""Takes metrics by name and the optimizer step that they belong to."""

_DTYPES = {"bf16-mixed": torch.bfloat16, "bf16-true": torch.bfloat16, "16-mixed": torch.float16}
_GIB = 2.0**30


class MetricsReporter(Callback):
    """Reports curves and cost of the training every `every` steps, and each validation's loss.

    Of the steps since the last report: mean `train/loss`, the last `train/learning_rate` and
    `train/gradient_norm`, `train/tokens` (of all steps so far, without padding),
    `train/tokens_per_second` (time without validations), `train/padding_share` of the computed
    tokens, `train/mfu` (operations that the
    tokens need over the operations that the device could have done, measured) and
    `train/memory_gib` (of the device; of this process on a CPU).

    Attributes:
        history: Everything that was reported: the (step, value) pairs of each metric.
    """

    def __init__(self, sink: MetricsSink, every: int) -> None:
        self.sink = sink
        self.every = every
        self.history: dict[str, list[tuple[int, float]]] = {}
        self._losses: list[torch.Tensor] = []

        # Since the clock was started, which a resumed training does as well.
        self._tokens = 0
        self._flops = 0.0
        # Since the training has begun.
        self._all_tokens = 0
        # Since the last report.
        self._real_tokens = self._computed_tokens = 0
        self._since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, after the device's peak has been measured."""
        _peak_flops(trainer, pl_module)
        # What that took is no memory of the training.
        if pl_module.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report after the first step and every `every` steps."""
        cost: ComputeCost = outputs["cost"]
        self._tokens += cost.tokens
        self._all_tokens += cost.tokens
        self._real_tokens += cost.tokens
        self._computed_tokens += cost.computed
        self._flops += cost.flops
        # Only the last micro-batch of a step knows the loss of the step.
        if "window_loss" not in outputs:
            return

        self._losses.append(outputs["window_loss"])
        step = trainer.global_step
        # The first step is reported, so that a curve starts where the training does.
        if step > 1 and step % self.every:
            return

        seconds = time.perf_counter() - self._since
        # The losses of a checkpoint lie on the CPU.
        losses = [loss.to(pl_module.device) for loss in self._losses]
        metrics = {
            "train/loss": float(torch.stack(losses).mean()),
            # With layer decay, the last group has the highest rate.
            "train/learning_rate": trainer.optimizers[0].param_groups[-1]["lr"],
            "train/gradient_norm": float(pl_module.gradient_norm),
            "train/tokens": float(self._all_tokens),
            "train/tokens_per_second": self._tokens / seconds,
            "train/padding_share": 1.0 - self._real_tokens / max(self._computed_tokens, 1),
            "train/mfu": self._flops / seconds / _peak_flops(trainer, pl_module),
            "train/memory_gib": _memory(pl_module.device) / _GIB,
        }
        self._losses.clear()
        self._tokens = self._real_tokens = self._computed_tokens = 0
        self._flops = 0.0

        # At the end: if the sink fails, the step is finished all the same.
        self.report(metrics, step)
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._since -= time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the validation loss, and restart the clock."""
        self._since += time.perf_counter()

        metrics = {}
        for name, value in trainer.callback_metrics.items():
            if name.startswith("val/"):
                metrics[name] = float(value)
        if metrics and not trainer.sanity_checking:
            self.report(metrics, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the history, and the losses and tokens of the next report, for a checkpoint."""
        return {
            "history": {name: list(map(list, curve)) for name, curve in self.history.items()},
            "losses": list(map(float, self._losses)),
            "tokens": [self._real_tokens, self._computed_tokens],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history of a checkpoint."""
        self.history = {}
        for name, curve in state_dict["history"].items():
            self.history[name] = [(int(step), float(value)) for step, value in curve]

        self._losses = list(map(torch.tensor, state_dict["losses"]))
        self._real_tokens, self._computed_tokens = state_dict["tokens"]
        # A checkpoint of an older version has no such curve: its tokens aren't counted.
        reported = self.history.get("train/tokens", [(0, 0.0)])[-1][1]
        self._all_tokens = int(reported) + self._real_tokens

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics to the history, and pass them to the sink."""
        for name, value in metrics.items():
            self.history.setdefault(name, []).append((step, value))
        self.sink(metrics, step)


class EndAtStep(Callback):
    """Ends a training after some steps as early stopping would: the last weights are validated.

    Lightning's own `max_steps` leaves in the middle of an epoch, and a resumed training could not
    validate any more.

    Args:
        steps: Optimizer steps of the training; no limit unless above 0.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Ask the trainer to stop."""
        # Lightning still validates before it stops.
        if 0 < self.steps <= trainer.global_step:
            trainer.should_stop = True


def _peak_flops(trainer: Trainer, module: LightningModule) -> float:
    """Return the operations per second that the device reaches in the training's precision."""
    dtype = _DTYPES.get(str(trainer.precision), torch.float32)
    return peak_flops(module.device.type, dtype)


def _memory(device: torch.device) -> float:
    """Return bytes: the most that a GPU held so far, or what this process holds now."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(psutil.Process().memory_info().rss)
