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
            weight * example.supervised_tokens
            for example, weight in zip(self.examples, self.weights, strict=True)
        )

    def part(self, rows: slice) -> "LanguageBatch":
        """Return some of the examples."""
        return LanguageBatch(
            examples=self.examples[rows], rows=self.rows[rows], weights=self.weights[rows]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePair:
    """Two answers to one prompt.

    Attributes:
        chosen: The better answer.
        rejected: The worse one.
        reference: Log-probability of the chosen and of the rejected answer, in nats, by the model that training starts
            from.
    """

    chosen: TokenizedExample
    rejected: TokenizedExample
    reference: tuple[float, float] = (0.0, 0.0)

    @property
    def tokens(self) -> int:
        """Tokens of both answers, each behind the prompt."""
        return len(self.chosen.input_ids) + len(self.rejected.input_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceBatch:
    """Pairs that go through the model together.

    Attributes:
        pairs: The pairs.
        rows: Their numbers.
    """

    pairs: tuple[PreferencePair, ...]
    rows: tuple[int, ...]

    @property
    def examples(self) -> tuple[TokenizedExample, ...]:
        """All chosen answers, then all rejected ones."""
        return (*(pair.chosen for pair in self.pairs), *(pair.rejected for pair in self.pairs))

    @property
    def weight(self) -> float:
        """The weights of the pairs."""
        return sum(pair.chosen.weight for pair in self.pairs)

    def part(self, rows: slice) -> "PreferenceBatch":
        """Return some of the pairs."""
        return PreferenceBatch(pairs=self.pairs[rows], rows=self.rows[rows])


Item = TokenizedExample | PreferencePair


class LanguageModelDataModule(lightning.LightningDataModule):
    """Training and validation batches of tokenised examples, or of preferences.

    Args:
        train: Training examples; all of one kind.
        validation: Validation examples.
        batch_size: Rows per micro-batch.
        batches: How micro-batches become steps.
        padded: Whether examples will be padded: those of like length then share a batch.
        seed: Decides, with the epoch, the order of the rows.
        numbers: Which of the training records each training example comes from; None: as many records as examples.
        left_out: Training records that teach nothing, and are no examples.
    """

    def __init__(
        self,
        *,
        train: Sequence[Item],
        validation: Sequence[Item],
        batch_size: int,
        batches: BatchesConfig | None = None,
        padded: bool = False,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        left_out: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.batch_size = batch_size
        self.batches = batches or BatchesConfig()
        self.padded = padded
        self.seed = seed
        self.numbers = numbers
        self.left_out = left_out

    def train_dataloader(self) -> StepLoader:
        """Return shuffled batches, another order each epoch."""
        ranks, rank = (
            (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        )
        steps = StepSampler(
            self._sampler(self.train, shuffle=True),
            accumulate=self.batches.accumulate,
            rank=rank,
            ranks=ranks,
        )
        return StepLoader(
            partial(_batch, self.train), steps, workers=self.batches.workers, numbers=self.numbers
        )

    def val_dataloader(self) -> StepLoader:
        """Return batches in the rows' own order."""
        return StepLoader(
            partial(_batch, self.validation),
            StepSampler(self._sampler(self.validation, shuffle=False)),
        )

    def _sampler(self, examples: Sequence[Item], shuffle: bool) -> SeededBatchSampler:
        return SeededBatchSampler(
            [
                each.tokens if isinstance(each, PreferencePair) else len(each.input_ids)
                for each in examples
            ],
            self.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            total_length=self.batches.tokens,
            by_length=self.padded,
        )


def _batch(items: Sequence[Item], rows: list[int]) -> LanguageBatch | PreferenceBatch:
    chosen = [items[row] for row in rows]
    pairs = tuple(item for item in chosen if isinstance(item, PreferencePair))
    if pairs:
        return PreferenceBatch(pairs=pairs, rows=tuple(rows))
    examples = tuple(item for item in chosen if isinstance(item, TokenizedExample))
    return LanguageBatch(
        examples=examples, rows=tuple(rows), weights=tuple(example.weight for example in examples)
    )
