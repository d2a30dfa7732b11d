"""EmbeddingDataModule: records of one shape become batches of tokenised columns and targets."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tunetrail.learning.embedding.prompts import role_of
from tunetrail.learning.training.batching import SeededBatchSampler

Record = Mapping[str, Any]
Preprocess = Callable[..., dict[str, Any]]
"""Takes a list of texts, and as `prompt` the text that goes before each of them."""

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
        prompts: By role (`query`, `document`), what goes before each text.
        refresh: Takes the number of the epoch that is to begin, returns as many training records as there are; the
            trainer has to reload the batches every `refresh_epochs` epochs.
        refresh_epochs: After so many epochs each `refresh` is called.
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
        prompts: Mapping[str, str] | None = None,
        refresh: Callable[[int], Sequence[Record]] | None = None,
        refresh_epochs: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.shape = shape
        self.preprocess = preprocess
        self.batch_size = batch_size
        self.seed = seed
        self.prompts = dict(prompts or {})
        self.refresh = refresh
        self.refresh_epochs = refresh_epochs
        # of the loaders' own draws: those of torch's global generator would change with the number of reloads
        self._generator = torch.Generator().manual_seed(seed) if refresh else None
        labels = sorted({record["label"] for record in (*train, *validation)}) if shape == "label" else []
        self._label_numbers = {label: number for number, label in enumerate(labels)}

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches, another order each epoch; the records are refreshed first where that is due."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        if self.refresh and epoch and epoch % self.refresh_epochs == 0:
            renewed = self.refresh(epoch)
            if len(renewed) != len(self.train):  # the learning rate's schedule counts on as many batches
                raise ValueError(f"refresh must return {len(self.train)} records, got {len(renewed)}.")
            self.train = renewed
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
        return DataLoader(
            records,  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=self._collate,
            generator=self._generator,
        )

    def _keys(self, records: Sequence[Record]) -> list[frozenset[Any]] | None:
        if self.shape not in ("pair", "text"):
            return None
        columns = _TEXT_COLUMNS[self.shape]
        texts = ((*(record[column] for column in columns), record.get("negative") or "") for record in records)
        return [frozenset(text.casefold() for text in row if text) for row in texts]

    def _collate(self, records: list[Record]) -> dict[str, Any]:
        features = [
            self._tokenized(column, [record[column] for record in records]) for column in _TEXT_COLUMNS[self.shape]
        ]
        negatives = [record["negative"] for record in records if record.get("negative")] if self.shape == "pair" else []
        if negatives:
            features.append(self._tokenized("negative", negatives))
        return {"features": features, "target": self._target(records), "rows": len(records)}

    def _tokenized(self, column: str, texts: list[str]) -> dict[str, Any]:
        prompt = self.prompts.get(role_of(column))
        return self.preprocess(texts, prompt=prompt) if prompt else self.preprocess(texts)

    def _target(self, records: list[Record]) -> Tensor | None:
        if self.shape == "score":
            return torch.tensor([record["score"] for record in records], dtype=torch.float32)
        if self.shape == "label":
            return torch.tensor([self._label_numbers[record["label"]] for record in records])
        if self.shape == "vector":
            return torch.tensor([record["embedding"] for record in records], dtype=torch.float32)
        return None
