"""LanguageModelDataModule: tokenised examples become batches, and batches become steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pytorch_lightning as lightning

from tunetrail.config import BatchesConfig
from tunetrail.learning.tokens.chat import TokenizedExample
from tunetrail.learning.training.batching import SeededBatchSampler
from tunetrail.learning.training.steps import StepLoader, StepSampler


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageBatch:
    """Examples that go through the model together.

    Attributes:
        examples: The examples.
        rows: Their numbers.
        weights: What each of their supervised tokens counts.
    """

    examples: tuple[TokenizedExample, ...]
    rows: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def weight(self) -> float:
        """Supervised tokens, each times the weight of its example."""
        return sum(
            weight * example.supervised_tokens for example, weight in zip(self.examples, self.weights, strict=True)
        )

    def part(self, rows: slice) -> "LanguageBatch":
        """Return some of the examples."""
        return LanguageBatch(examples=self.examples[rows], rows=self.rows[rows], weights=self.weights[rows])


class LanguageModelDataModule(lightning.LightningDataModule):
    """Training and validation batches of tokenised examples.

    Args:
        train: Training examples.
        validation: Validation examples.
        batch_size: Rows per micro-batch.
        batches: How micro-batches become steps.
        padded: Whether examples will be padded: those of like length then share a batch.
        seed: Decides, with the epoch, the order of the rows.
    """

    def __init__(
        self,
        *,
        train: Sequence[TokenizedExample],
        validation: Sequence[TokenizedExample],
        batch_size: int,
        batches: BatchesConfig | None = None,
        padded: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.batch_size = batch_size
        self.batches = batches or BatchesConfig()
        self.padded = padded
        self.seed = seed

    def train_dataloader(self) -> StepLoader:
        """Return shuffled batches, another order each epoch."""
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        steps = StepSampler(
            self._sampler(self.train, shuffle=True), accumulate=self.batches.accumulate, rank=rank, ranks=ranks
        )
        return StepLoader(partial(_batch, self.train), steps, workers=self.batches.workers)

    def val_dataloader(self) -> StepLoader:
        """Return batches in the rows' own order."""
        return StepLoader(partial(_batch, self.validation), StepSampler(self._sampler(self.validation, shuffle=False)))

    def _sampler(self, examples: Sequence[TokenizedExample], shuffle: bool) -> SeededBatchSampler:
        return SeededBatchSampler(
            [len(example.input_ids) for example in examples],
            self.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            total_length=self.batches.tokens,
            by_length=self.padded,
        )


def _batch(examples: Sequence[TokenizedExample], rows: list[int]) -> LanguageBatch:
    chosen = tuple(examples[row] for row in rows)
    return LanguageBatch(examples=chosen, rows=tuple(rows), weights=tuple(example.weight for example in chosen))
