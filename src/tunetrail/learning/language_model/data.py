"""LanguageModelDataModule: tokenised examples become padded batches, rows of like length together."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from tunetrail.learning.tokens.chat import IGNORED, TokenizedExample
from tunetrail.learning.training.batching import SeededBatchSampler


def padded_batch(examples: Sequence[TokenizedExample], pad_token_id: int) -> dict[str, Tensor]:
    """Return `input_ids`, `attention_mask` and `labels`, each [batch, tokens], padded on the right."""
    ids = [torch.tensor(example.input_ids) for example in examples]
    labels = [torch.tensor(example.labels) for example in examples]
    ones = [torch.ones_like(each) for each in ids]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence(ones, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


class LanguageModelDataModule(lightning.LightningDataModule):
    """Training and validation batches of tokenised examples.

    Args:
        train: Training examples.
        validation: Validation examples.
        pad_token_id: Fills up the shorter rows; masked from attention and loss.
        batch_size: Rows per batch.
        seed: Decides, with the epoch, the order of the rows.
    """

    def __init__(
        self,
        *,
        train: Sequence[TokenizedExample],
        validation: Sequence[TokenizedExample],
        pad_token_id: int,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.pad_token_id = pad_token_id
        self.batch_size = batch_size
        self.seed = seed

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches, another order each epoch."""
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Return batches in the rows' own order."""
        return self._loader(self.validation, shuffle=False)

    def _loader(self, examples: Sequence[TokenizedExample], shuffle: bool) -> DataLoader[Any]:
        lengths = [len(example.input_ids) for example in examples]
        sampler = SeededBatchSampler(lengths, self.batch_size, seed=self.seed, shuffle=shuffle)
        return DataLoader(examples, batch_sampler=sampler, collate_fn=self._collate)  # type: ignore[arg-type]

    def _collate(self, examples: list[TokenizedExample]) -> dict[str, Tensor]:
        return padded_batch(examples, self.pad_token_id)
