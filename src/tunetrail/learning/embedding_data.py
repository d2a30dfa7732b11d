"""EmbeddingDataModule: records of one shape become batches of tokenised columns and targets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tunetrail.learning.batching import SeededBatchSampler

Record = Mapping[str, Any]
Preprocess = Callable[[list[str]], dict[str, Any]]

_TEXT_COLUMNS = {
    "pair": ("anchor", "positive"),
    "score": ("sentence1", "sentence2"),
    "label": ("text",),
    "vector": ("text",),
    "text": ("text",),
}
_CONTRASTIVE = ("pair", "text", "label")


class EmbeddingDataModule(lightning.LightningDataModule):
    """Training and validation batches of embedding samples.

    A batch is a dict: `features` (one dict of tensors per text column), `target` (scores [batch], label numbers
    [batch], vectors [batch, dimensions] or None) and `rows` (their number). Rows with equal texts are kept out of each
    other's batch where they would count as negatives.

    Args:
        train: Training records, with the columns of `shape`.
        validation: Validation records.
        shape: Name of the samples' shape.
        preprocess: The model's tokenizer, texts to tensors.
        batch_size: Rows per batch.
        seed: Decides, with the epoch, the order of the rows.
    """

    def __init__(
        self,
        *,
        train: Sequence[Record],
        validation: Sequence[Record],
        shape: str,
        preprocess: Preprocess,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.shape = shape
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.seed = seed
        labels = sorted({record["label"] for record in (*train, *validation)}) if shape == "label" else []
        self._label_numbers = {label: number for number, label in enumerate(labels)}

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches, another order each epoch."""
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return batches in the rows' own order."""
        return self._loader(self.validation, shuffle=False)

    def _loader(self, records: Sequence[Record], shuffle: bool) -> DataLoader[Any]:
        columns = _TEXT_COLUMNS[self.shape]
        sampler = SeededBatchSampler(
            [max(len(record[column]) for column in columns) for record in records],
            self.batch_size,
            seed=self.seed,
            keys=self._keys(records),
            labels=[record["label"] for record in records] if self.shape == "label" else None,
            shuffle=shuffle,
            drop_single=self.shape in _CONTRASTIVE,
        )
        return DataLoader(records, batch_sampler=sampler, collate_fn=self._collate)  # type: ignore[arg-type]

    def _keys(self, records: Sequence[Record]) -> list[frozenset[Any]] | None:
        if self.shape not in ("pair", "text"):
            return None
        columns = _TEXT_COLUMNS[self.shape]
        texts = ((*(record[column] for column in columns), record.get("negative") or "") for record in records)
        return [frozenset(text.casefold() for text in row if text) for row in texts]

    def _collate(self, records: list[Record]) -> dict[str, Any]:
        features = [self.preprocess([record[column] for record in records]) for column in _TEXT_COLUMNS[self.shape]]
        negatives = [record["negative"] for record in records if record.get("negative")] if self.shape == "pair" else []
        if negatives:
            features.append(self.preprocess(negatives))
        return {"features": features, "target": self._target(records), "rows": len(records)}

    def _target(self, records: list[Record]) -> Tensor | None:
        if self.shape == "score":
            return torch.tensor([record["score"] for record in records], dtype=torch.float32)
        if self.shape == "label":
            return torch.tensor([self._label_numbers[record["label"]] for record in records])
        if self.shape == "vector":
            return torch.tensor([record["embedding"] for record in records], dtype=torch.float32)
        return None
