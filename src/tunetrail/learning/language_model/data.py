"""LanguageModelDataModule: turns tokenised examples into micro-batches."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from tunetrail.config import BatchesConfig
from tunetrail.learning.tokens.chat import TokenizedExample, supervised_counts
from tunetrail.learning.training.batching import SeededBatchSampler
from tunetrail.learning.training.micro_batches import MicroBatchData, MicroBatchLoader


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageBatch:
    """Examples that go through the model together.

    Attributes:
        examples: The examples.
        rows: Indices of the examples.
        weights: Weight of each example's supervised tokens.
    """

    examples: tuple[TokenizedExample, ...]
    rows: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def weight(self) -> float:
        """Sum of the supervised tokens, each times the weight of its example."""
        return sum(map(operator.mul, self.weights, supervised_counts(self.examples)), start=0.0)

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
        reference: Log-probability of the chosen and of the rejected answer, in nats, by the model
            that training starts from.
    """

    chosen: TokenizedExample
    rejected: TokenizedExample
    reference: tuple[float, float] = (0.0, 0.0)

    @property
    def tokens(self) -> int:
        """Number of tokens of both answers, each after the prompt."""
        return len(self.chosen.input_ids) + len(self.rejected.input_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceBatch:
    """Pairs that go through the model together.

    Attributes:
        pairs: The pairs.
        rows: Indices of the pairs.
    """

    pairs: tuple[PreferencePair, ...]
    rows: tuple[int, ...]

    @property
    def examples(self) -> tuple[TokenizedExample, ...]:
        """All chosen answers, then all rejected answers."""
        return (*(pair.chosen for pair in self.pairs), *(pair.rejected for pair in self.pairs))

    @property
    def weight(self) -> float:
        """Sum of the weights of the pairs."""
        return sum(pair.chosen.weight for pair in self.pairs)

    def part(self, rows: slice) -> "PreferenceBatch":
        """Return some of the pairs."""
        return PreferenceBatch(pairs=self.pairs[rows], rows=self.rows[rows])


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedAnswer:
    """An answer with the verdict on it, for KTO.

    Attributes:
        answer: The answer after its prompt.
        mismatched: The answer of another row after the same prompt.
        accepted: Whether the answer was accepted.
        reference: Log-probability of the answer and of the mismatched one, in nats, by the model
            that training starts from.
    """

    answer: TokenizedExample
    mismatched: TokenizedExample
    accepted: bool
    reference: tuple[float, float] = (0.0, 0.0)

    @property
    def tokens(self) -> int:
        """Number of tokens of both answers, each after the prompt."""
        return len(self.answer.input_ids) + len(self.mismatched.input_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class VerdictBatch:
    """Judged answers that go through the model together.

    Attributes:
        judged: The answers.
        rows: Indices of the answers.
    """

    judged: tuple[JudgedAnswer, ...]
    rows: tuple[int, ...]

    @property
    def examples(self) -> tuple[TokenizedExample, ...]:
        """The answers, each after its prompt."""
        return tuple(judged.answer for judged in self.judged)

    @property
    def mismatched(self) -> tuple[TokenizedExample, ...]:
        """The answers of other rows, each after a prompt of this batch."""
        return tuple(judged.mismatched for judged in self.judged)

    @property
    def weight(self) -> float:
        """Sum of the weights of the answers."""
        return sum(judged.answer.weight for judged in self.judged)

    def part(self, rows: slice) -> "VerdictBatch":
        """Return some of the answers."""
        return VerdictBatch(judged=self.judged[rows], rows=self.rows[rows])


Item = TokenizedExample | PreferencePair | JudgedAnswer
Batch = LanguageBatch | PreferenceBatch | VerdictBatch


class LanguageModelDataModule(MicroBatchData):
    """Training and validation batches of tokenised examples, of preferences, or of verdicts.

    Args:
        train: Training examples; all of one kind.
        validation: Validation examples.
        batch_size: Rows per micro-batch.
        batches: How rows become micro-batches.
        padded: Whether examples will be padded; examples of similar length then share a batch.
        seed: Decides the order of the rows, together with the epoch.
        numbers: Index of the training record of each training example; None if all are examples.
        left_out: Number of training records that teach nothing and are no examples.
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

    def train_dataloader(self) -> MicroBatchLoader:
        """Return shuffled batches, another order each epoch."""
        batches = self._sampler(self.train, shuffle=True)
        return self.loader(partial(_build_batch, self.train), batches, indices=self.numbers)

    def val_dataloader(self) -> MicroBatchLoader:
        """Return batches in the rows' own order."""
        batches = self._sampler(self.validation, shuffle=False)
        return self.validation_loader(partial(_build_batch, self.validation), batches)

    def _sampler(self, examples: Sequence[Item], shuffle: bool) -> SeededBatchSampler:
        return SeededBatchSampler(
            list(map(_length, examples)),
            self.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            total_length=self.batches.tokens,
            # Without padding, examples of any length share a batch at no cost.
            by_length=self.padded,
        )


def _length(item: Item) -> int:
    return len(item.input_ids) if isinstance(item, TokenizedExample) else item.tokens


def _build_batch(items: Sequence[Item], rows: list[int]) -> Batch:
    """Return the batch of some rows, all of which are examples, preferences or judged answers."""
    pairs: list[PreferencePair] = []
    judged: list[JudgedAnswer] = []
    examples: list[TokenizedExample] = []
    for row in rows:
        item = items[row]
        if isinstance(item, PreferencePair):
            pairs.append(item)
        elif isinstance(item, JudgedAnswer):
            judged.append(item)
        else:
            examples.append(item)

    if pairs:
        return PreferenceBatch(pairs=tuple(pairs), rows=tuple(rows))
    if judged:
        return VerdictBatch(judged=tuple(judged), rows=tuple(rows))
    weights = tuple(example.weight for example in examples)
    return LanguageBatch(examples=tuple(examples), rows=tuple(rows), weights=weights)
