"""EmbeddingDataModule: records become batches of one shape: tokenised columns and targets."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor

from tunetrail.config import BatchesConfig
from tunetrail.learning.embedding.encoder import TextColumn
from tunetrail.learning.embedding.record_changes import changed_records, record_changes
from tunetrail.learning.embedding.teacher import teacher_target
from tunetrail.learning.tokens.prompts import role_of
from tunetrail.learning.training.batching import MergedBatchSampler, SeededBatchSampler
from tunetrail.learning.training.steps import StepLoader, StepSampler
from tunetrail.samples import shape_named

Record = Mapping[str, Any]

CLUSTER_COLUMN = "cluster"
"""Column with the number of a row's cluster of near-duplicates, where there is one."""


def shape_of(record: Record, own: str) -> str:
    """Return the name of a record's shape, `own` where it names none."""
    return str(record.get("shape", own))


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingBatch:
    """Rows that go through the model together.

    Attributes:
        columns: Their texts, column by column; a pair's negatives only where there are some.
        target: Scores [rows], label numbers [rows], vectors [rows, dimensions], what a teacher says, or None.
        rows: Their numbers.
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


class EmbeddingDataModule(lightning.LightningDataModule):
    """Training and validation batches of embedding samples.

    Rows with equal texts are kept out of each other's batch where they would count as negatives.

    Args:
        train: Training records; those of another shape than `shape` name theirs in the column `shape`.
        validation: Validation records.
        shape: Name of the samples' shape, for records that don't name it.
        batch_size: Rows per micro-batch.
        batches: How micro-batches become steps.
        lengths: Takes a record and returns its tokens; characters are counted where None.
        padded: Whether texts will be padded: rows of like length then share a batch.
        seed: Decides, with the epoch, the order of the rows.
        seen_twice: Shapes whose texts go through the model twice.
        prompts: By role (`query`, `document`), what goes before each text.
        refresh: Takes the number of the epoch that is to begin, returns as many training records as there are; the
            trainer has to reload the batches in every epoch.
        refresh_epochs: After so many epochs each `refresh` is called.
    """

    def __init__(
        self,
        *,
        train: Sequence[Record],
        validation: Sequence[Record],
        shape: str,
        batch_size: int,
        batches: BatchesConfig | None = None,
        lengths: Callable[[Record], int] | None = None,
        padded: bool = False,
        seen_twice: Collection[str] = (),
        seed: int = 0,
        prompts: Mapping[str, str] | None = None,
        refresh: Callable[[int], Sequence[Record]] | None = None,
        refresh_epochs: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.shape = shape
        self.batch_size = batch_size
        self.batches = batches or BatchesConfig()
        self.lengths = lengths
        self.padded = padded
        self.seen_twice = tuple(seen_twice)
        self.seed = seed
        self.prompts = dict(prompts or {})
        self.refresh = refresh
        self.refresh_epochs = refresh_epochs
        self._first = train
        self._refreshed = 0  # the epoch that the training records were made for
        labels = sorted(
            {each["label"] for each in (*train, *validation) if shape_of(each, shape) == "label"}
        )
        self._label_numbers = {label: number for number, label in enumerate(labels)}

    def rows_by_shape(self, records: Sequence[Record]) -> dict[str, list[int]]:
        """Return the numbers of the records of each shape, the module's own shape first."""
        rows: dict[str, list[int]] = {self.shape: []}
        for number, record in enumerate(records):
            rows.setdefault(shape_of(record, self.shape), []).append(number)
        return rows

    def train_dataloader(self) -> StepLoader:
        """Return shuffled batches, another order each epoch; the records are refreshed first where that is due."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        if self.refresh and epoch > self._refreshed and epoch % self.refresh_epochs == 0:
            renewed = self.refresh(epoch)
            if len(renewed) != len(
                self.train
            ):  # the learning rate's schedule counts on as many batches
                raise ValueError(
                    f"refresh must return {len(self.train)} records, got {len(renewed)}."
                )
            self.train, self._refreshed = renewed, epoch
        ranks, rank = (
            (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        )
        steps = StepSampler(
            self._sampler(self.train, shuffle=True),
            accumulate=self.batches.accumulate,
            rank=rank,
            ranks=ranks,
        )
        return StepLoader(partial(self._batch, self.train), steps, workers=self.batches.workers)

    def state_dict(self) -> dict[str, Any]:
        """Return what the last refreshing changed, for a checkpoint: the model that it used is another one by now."""
        if not self._refreshed:
            return {}
        return {"refreshed": self._refreshed, "changes": record_changes(self._first, self.train)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the records of a checkpoint."""
        self._refreshed = state_dict["refreshed"]
        self.train = changed_records(self._first, state_dict["changes"])

    def val_dataloader(self) -> StepLoader:
        """Return batches in the rows' own order."""
        steps = StepSampler(self._sampler(self.validation, shuffle=False))
        return StepLoader(partial(self._batch, self.validation), steps)

    def _sampler(
        self, records: Sequence[Record], shuffle: bool
    ) -> SeededBatchSampler | MergedBatchSampler:
        parts = [
            (rows, self.sampler_of(shape, [records[row] for row in rows], shuffle=shuffle))
            for shape, rows in self.rows_by_shape(records).items()
            if rows or shape == self.shape
        ]
        return (
            parts[0][1]
            if len(parts) == 1
            else MergedBatchSampler(parts, seed=self.seed, shuffle=shuffle)
        )

    def sampler_of(
        self, shape: str, records: Sequence[Record], *, shuffle: bool = True
    ) -> SeededBatchSampler:
        """Return the batches of records of one shape."""
        return SeededBatchSampler(
            [self._length(shape, record) for record in records],
            self.batch_size,
            seed=self.seed,
            keys=self._keys(shape, records),
            labels=[record["label"] for record in records] if shape == "label" else None,
            shuffle=shuffle,
            drop_single=shape_named(shape).compares_rows,
            total_length=self.batches.tokens,
            by_length=self.padded,
        )

    def _length(self, shape: str, record: Record) -> int:
        if self.lengths is not None:
            return self.lengths(record)
        return max(len(record[column]) for column in shape_named(shape).input_texts)

    def _keys(self, shape: str, records: Sequence[Record]) -> list[frozenset[Any]] | None:
        compared = shape_named(shape)
        if not compared.compares_rows or compared.target:
            return None
        columns = compared.input_texts
        texts = (
            (*(record[column] for column in columns), record.get("negative") or "")
            for record in records
        )
        clusters = (record.get(CLUSTER_COLUMN) for record in records)
        return [
            frozenset(
                (
                    *(text.casefold() for text in row if text),
                    *(() if cluster is None else (cluster,)),
                )
            )
            for row, cluster in zip(texts, clusters, strict=True)
        ]

    def _batch(self, records: Sequence[Record], rows: list[int]) -> EmbeddingBatch:
        chosen = [records[row] for row in rows]
        shape = shape_of(chosen[0], self.shape)
        columns = [
            self._column(column, [record[column] for record in chosen])
            for column in shape_named(shape).input_texts
        ]
        columns *= 2 if shape in self.seen_twice else 1
        negatives = (
            [record["negative"] for record in chosen if record.get("negative")]
            if shape == "pair"
            else []
        )
        if negatives:
            columns.append(self._column("negative", negatives))
        return EmbeddingBatch(
            columns=tuple(columns),
            target=self._target(shape, chosen),
            rows=tuple(rows),
            shape=shape,
        )

    def _column(self, column: str, texts: list[str]) -> TextColumn:
        return TextColumn(texts=texts, prompt=self.prompts.get(role_of(column)) or "")

    def _target(self, shape: str, records: Sequence[Record]) -> Tensor | None:
        taught = teacher_target(records)
        if taught is not None:
            return taught
        if shape == "score":
            return torch.tensor([record["score"] for record in records], dtype=torch.float32)
        if shape == "label":
            return torch.tensor([self._label_numbers[record["label"]] for record in records])
        if shape == "vector":
            return torch.tensor([record["embedding"] for record in records], dtype=torch.float32)
        return None
