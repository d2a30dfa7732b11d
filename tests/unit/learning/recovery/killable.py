"""Trainings that tell where they are, so that a test can kill them there, and their records."""

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from tunetrail.config import AdapterConfig
from tunetrail.learning.embedding.module import EmbeddingModule
from tunetrail.learning.language_model.module import LanguageModelModule
from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample

ROWS = 27
"""Seven batches of four, of which the last has three rows."""
PAIRS = [
    {
        "anchor": f"question {row} {'why ' * (row % 5)}",
        "positive": f"the answer is {row * 7}",
        "negative": "no" * (row % 2),
    }
    for row in range(ROWS)
]
SAME = [
    {"sentence1": f"text {row}", "sentence2": f"other {row}", "score": 1.0} for row in range(ROWS)
]
OPPOSITE = [record | {"score": -1.0} for record in SAME]
"""Whoever learns SAME gets worse on OPPOSITE with every step."""
LORA = asdict(AdapterConfig(kind="lora", rank=4, alpha=8, dropout=0.2))
TIMED = ("train/tokens_per_second", "train/mfu", "train/memory_gib")
"""Metrics that differ whenever the same training runs again."""

Strike = Callable[[str, int], None]
"""Takes a place, and the number of micro-batches that are finished there."""


def example(row: int) -> TokenizedExample:
    """Return an example of a language model's training: a random text of some length."""
    tokens = [3 + (row * 31 + position**2) % 250 for position in range(4 + row * 5 % 17)]
    ids = [*tokens, 2]
    return TokenizedExample(
        input_ids=ids,
        labels=[IGNORED, *ids[1:]],
        supervised_bytes=0,
        truncated=False,
        weight=1.0 + row % 3,
    )


EXAMPLES = list(map(example, range(ROWS)))


class Killable:
    """Tells at which place of its training it is.

    Attributes:
        on_place: Called at each place.
        final_state: Weights, state of the optimizer, position in the schedule and step, all as they
            are after the last step; None until then.
    """

    on_place: Strike = staticmethod(lambda place, finished: None)
    validation_batches = 0
    final_state: Any = None

    def strike(self, place: str) -> None:
        """Call `on_place`."""
        progress = self.trainer.fit_loop.epoch_loop.batch_progress  # type: ignore[attr-defined]
        self.on_place(place, progress.total.processed)

    def training_step(self, batch: Any, batch_index: int) -> Any:
        """Strike before a micro-batch."""
        self.strike("step")
        return super().training_step(batch, batch_index)  # type: ignore[misc]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Strike between the backward pass of a window and the step of the optimizer."""
        self.strike("optimizer")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Strike while a checkpoint is written, the last one or the best one."""
        self.strike("saving")
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]

    def on_validation_epoch_start(self) -> None:
        """Count the batches of a validation."""
        self.validation_batches = 0
        super().on_validation_epoch_start()  # type: ignore[misc]

    def measures_of(self, micro_batch: Any) -> Any:
        """Strike in the middle of a validation."""
        self.validation_batches += 1
        if self.validation_batches == 2:
            self.strike("validation")
        return super().measures_of(micro_batch)  # type: ignore[misc]

    def on_validation_end(self) -> None:
        """Strike after a validation."""
        self.strike("validated")

    def on_train_epoch_end(self) -> None:
        """Strike at the end of an epoch."""
        self.strike("epoch")

    def on_train_end(self) -> None:
        """Keep the state that the training ends with."""
        trainer: Any = self.trainer  # type: ignore[attr-defined]
        final_state = {
            "weights": self.state_dict(),  # type: ignore[attr-defined]
            "optimizer": trainer.optimizers[0].state_dict(),
            "schedule": trainer.lr_scheduler_configs[0].scheduler.last_epoch,
            "step": trainer.global_step,
        }
        # The best weights take the place of the last ones afterwards.
        self.final_state = copy.deepcopy(final_state)


class KillableEmbedding(Killable, EmbeddingModule):
    """The training of an embedding model."""


class KillableLanguageModel(Killable, LanguageModelModule):
    """The training of a language model."""


def digest(values: Any) -> str:
    """Return a hash of all numbers in nested collections of tensors and plain values."""
    digested = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Mapping):
            for name in sorted(value, key=str):
                digested.update(str(name).encode())
                add(value[name])
        elif isinstance(value, list | tuple):
            for member in value:
                add(member)
        elif isinstance(value, torch.Tensor) and value.ndim:
            contiguous = value.detach().cpu().contiguous()
            digested.update(contiguous.view(torch.uint8).numpy().tobytes())
        elif isinstance(value, torch.Tensor):
            digested.update(repr(value.tolist()).encode())
        else:
            digested.update(repr(value).encode())

    add(values)
    return digested.hexdigest()
