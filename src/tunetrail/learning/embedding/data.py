"""Records become batches of one sample shape: texts by column, and the target."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from tunetrail.config import BatchesConfig
from tunetrail.config.loss_choice import resolve_loss
from tunetrail.config.losses import Loss
from tunetrail.learning.embedding.encoder import TextColumn
from tunetrail.learning.embedding.record_differences import (
    differing_columns,
    with_differing_columns,
)
from tunetrail.learning.embedding.teacher import teacher_target
from tunetrail.learning.tokens.prompts import role_of
from tunetrail.learning.training.batching import MergedBatchSampler, SeededBatchSampler
from tunetrail.learning.training.micro_batches import MicroBatchData, MicroBatchLoader
from tunetrail.learning.training.records import Record
from tunetrail.samples import ColumnType, SampleShape, shape_named

VALIDATION_ROWS = 32
"""Rows of a validation's batch, whatever the batch size of the training: a loss that compares the
rows of a batch depends on their number, and so would `val/loss`."""
CLUSTER_COLUMN = "cluster"
"""Column with a row's cluster of near-duplicates, if it is in one."""


def shape_of(record: Record, default: str) -> str:
    """Return the name of a record's shape, `default` if it names none."""
    return str(record.get("shape", default))


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingBatch:
    """Rows that go through the model together.

    Attributes:
        columns: Their texts, column by column; an optional column has the texts of the rows that
            have one, and is left out if none has.
        target: Scores [rows], label indices [rows], vectors [rows, dimensions], what a teacher
            gives, or None.
        rows: Positions of the rows in the records.
        shape: Name of their shape.
    """

    columns: tuple[TextColumn, ...]
    target: Any
    rows: tuple[int, ...]
    shape: str

    @property
    def weight(self) -> float:
        """Number of rows."""
        return float(len(self.rows))

    @property
    def sizes(self) -> list[int]:
        """Number of texts of each column."""
        return [len(column.texts) for column in self.columns]


class EmbeddingDataModule(MicroBatchData):
    """Training and validation batches of embedding samples.

    Rows with equal texts are kept out of each other's batch if they would count as negatives.

    Args:
        train: Training records; a record of another shape than `shape` names it in the column
            `shape`.
        validation: Validation records.
        shape: Name of the shape of records that name none.
        batch_size: Rows per micro-batch.
        loss: The loss of `shape`; None: the one that `auto` chooses.
        batches: How rows become micro-batches.
        lengths: Takes a record and returns its number of tokens; None: its characters count.
        padded: Whether texts will be padded: rows of similar length then share a batch.
        seen_twice: Shapes whose texts go through the model twice.
        validation_rows: Rows of a validation's batch.
        seed: Decides, with the epoch, the order of the rows.
        prompts: The prompt of each role (`query`, `document`).
        refresh: Takes the number of the epoch that is to begin, and returns as many training
            records as there are. The trainer has to reload the batches in every epoch.
        refresh_epochs: Number of epochs between two calls of `refresh`.
    """

    def __init__(
        self,
        *,
        train: Sequence[Record],
        validation: Sequence[Record],
        shape: str,
        batch_size: int,
        loss: Loss | None = None,
        batches: BatchesConfig | None = None,
        lengths: Callable[[Record], int] | None = None,
        padded: bool = False,
        seen_twice: Collection[str] = (),
        validation_rows: int = VALIDATION_ROWS,
        seed: int = 0,
        prompts: Mapping[str, str] | None = None,
        refresh: Callable[[int], Sequence[Record]] | None = None,
        refresh_epochs: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.shape = shape
        self.batch_size = batch_size
        self.loss = loss or resolve_loss(shape, "auto")
        self.batches = batches or BatchesConfig()
        self.lengths = lengths
        self.padded = padded
        self.seen_twice = tuple(seen_twice)
        self.validation_rows = validation_rows
        self.seed = seed
        self.prompts = dict(prompts or {})
        self.refresh = refresh
        self.refresh_epochs = refresh_epochs

        # A checkpoint holds only how the current records differ from these.
        self._first_records = train
        self._refreshed_epoch = 0  # the epoch that the training records were made for
        self._label_indices = self._index_labels()

    def rows_by_shape(self, records: Sequence[Record]) -> dict[str, list[int]]:
        """Return the positions of the records of each shape, the module's own shape first."""
        rows: dict[str, list[int]] = {self.shape: []}
        for row, record in enumerate(records):
            rows.setdefault(shape_of(record, self.shape), []).append(row)
        return rows

    def train_dataloader(self) -> MicroBatchLoader:
        """Return shuffled batches, in another order each epoch, after a refresh if it is due."""
        if self.trainer:
            self._refresh_if_due(self.trainer.current_epoch)
        sampler = self._sampler(self.train, shuffle=True)
        return self.loader(partial(self._batch, self.train), sampler)

    def val_dataloader(self) -> MicroBatchLoader:
        """Return batches of `validation_rows`, in the order of the rows."""
        sampler = self._sampler(self.validation, shuffle=False)
        return self.validation_loader(partial(self._batch, self.validation), sampler)

    @cached_property
    def judges(self) -> bool:
        """Whether the validation loss can change: compared with no other row, a row's can't."""
        learns_alone = self.loss.learns_alone(with_negative=False)
        return any(learns_alone or len(shared.batch.rows) > 1 for shared in self.val_dataloader())

    def state_dict(self) -> dict[str, Any]:
        """Return what the last refresh changed: it can't be repeated, the model has moved on."""
        if not self._refreshed_epoch:
            return {}
        changes = differing_columns(self._first_records, self.train)
        return {"refreshed": self._refreshed_epoch, "changes": changes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the records of a checkpoint."""
        self._refreshed_epoch = state_dict["refreshed"]
        self.train = with_differing_columns(self._first_records, state_dict["changes"])

    def sampler_of(
        self, shape: str, records: Sequence[Record], *, shuffle: bool = True
    ) -> SeededBatchSampler:
        """Return the batches of records of one shape."""
        sample_shape = shape_named(shape)
        label = _label_column(sample_shape)
        total_length = self.batches.tokens if shuffle else 0
        return SeededBatchSampler(
            [self._length(sample_shape, record) for record in records],
            self.batch_size if shuffle else self.validation_rows,
            seed=self.seed,
            keys=_keys(sample_shape, records),
            # Losses of labels compare rows of one label, so the sampler puts such rows together.
            labels=list(map(itemgetter(label), records)) if label else None,
            shuffle=shuffle,
            drop_single=sample_shape.compares_rows,
            total_length=total_length,
            by_length=self.padded,
        )

    def _refresh_if_due(self, epoch: int) -> None:
        has_begun = epoch > self._refreshed_epoch
        if self.refresh is None or not has_begun or epoch % self.refresh_epochs:
            return

        records = self.refresh(epoch)
        # The learning rate's schedule relies on the number of batches.
        if len(records) != len(self.train):
            raise ValueError(f"refresh must return {len(self.train)} records, got {len(records)}.")
        self.train, self._refreshed_epoch = records, epoch

    def _sampler(
        self, records: Sequence[Record], *, shuffle: bool
    ) -> SeededBatchSampler | MergedBatchSampler:
        samplers = []
        for shape, rows in self.rows_by_shape(records).items():
            # The own shape always has a sampler, or data without rows would have none.
            if rows or shape == self.shape:
                of_shape = [records[row] for row in rows]
                samplers.append((rows, self.sampler_of(shape, of_shape, shuffle=shuffle)))

        # A single shape needs no merging, which would draw another order.
        if len(samplers) == 1:
            return samplers[0][1]
        return MergedBatchSampler(samplers, seed=self.seed, shuffle=shuffle)

    def _length(self, shape: SampleShape, record: Record) -> int:
        if self.lengths is not None:
            return self.lengths(record)
        # Good enough to put texts of similar length together.
        return max(len(record[column]) for column in shape.input_texts)

    def _index_labels(self) -> dict[str, int]:
        """Number all labels, so that training and validation agree on them."""
        labels = set()
        for record in (*self.train, *self.validation):
            column = _label_column(shape_named(shape_of(record, self.shape)))
            if column:
                labels.add(record[column])
        # Sorted: the order of a set of strings changes from process to process.
        return {label: index for index, label in enumerate(sorted(labels))}

    def _batch(self, records: Sequence[Record], rows: list[int]) -> EmbeddingBatch:
        """Return the batch of some records: their texts by column, and their target."""
        if not rows:
            return EmbeddingBatch(columns=(), target=None, rows=(), shape=self.shape)

        batch_records = [records[row] for row in rows]
        shape = shape_named(shape_of(batch_records[0], self.shape))

        columns = [self._column(name, batch_records) for name in shape.input_texts]
        # Two passes with other dropout make two views of each text (SimCSE).
        if shape.name in self.seen_twice:
            columns *= 2
        for name in shape.optional:
            having = [record for record in batch_records if record.get(name)]
            if having:
                columns.append(self._column(name, having))

        return EmbeddingBatch(
            columns=tuple(columns),
            target=self._target(shape, batch_records),
            rows=tuple(rows),
            shape=shape.name,
        )

    def _column(self, name: str, records: Sequence[Record]) -> TextColumn:
        texts = list(map(itemgetter(name), records))
        return TextColumn(texts=texts, prompt=self.prompts.get(role_of(name)) or "")

    def _target(self, shape: SampleShape, records: Sequence[Record]) -> Tensor | None:
        # What a teacher says takes the place of a target of the row's own.
        taught = teacher_target(records)
        if taught is not None or not shape.target:
            return taught

        (column,) = shape.target
        values = list(map(itemgetter(column), records))
        if column == _label_column(shape):
            return torch.tensor([self._label_indices[label] for label in values])
        return torch.tensor(values, dtype=torch.float32)


def _label_column(shape: SampleShape) -> str | None:
    """Return the column with a row's class, None if rows of the shape have none."""
    for column in shape.target:
        if shape.types.get(column) is ColumnType.LABEL:
            return column
    return None


def _keys(shape: SampleShape, records: Sequence[Record]) -> list[frozenset[Any]] | None:
    """Return what two rows of one batch must not share, or a text would be its own negative.

    None if a row's negatives aren't the texts of other rows.
    """
    if not shape.compares_rows or shape.target:
        return None

    keys = []
    for record in records:
        # Models that read no case take "A" and "a" for the same text.
        texts = [record[column].casefold() for column in shape.texts if record.get(column)]
        # Near-duplicates are as bad a negative as the text itself.
        cluster = record.get(CLUSTER_COLUMN)
        keys.append(frozenset(texts if cluster is None else [*texts, cluster]))
    return keys
