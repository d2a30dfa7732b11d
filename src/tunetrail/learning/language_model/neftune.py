"""NEFTune: noise on a language model's embeddings in training (Jain et al. 2023)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunetrail.learning.devices import to_device


class EmbeddingNoise:
    """Adds uniform noise of at most alpha / sqrt(length * dimensions) to each sequence.

    It acts only within `over` and in training mode (arXiv:2310.05914). The noise comes from torch's
    generator of the model's device.

    Args:
        model: The model whose input embeddings' output is changed; its weights stay.
        alpha: Size of the noise; 0 adds none.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, alpha: float) -> None:
        self.alpha = alpha
        self._lengths: Tensor | None = None
        embeddings: nn.Module = model.get_input_embeddings()
        self._hook = embeddings.register_forward_hook(self._add_noise)

    @contextmanager
    def over(self, lengths: Sequence[int] | Tensor) -> Iterator[None]:
        """Add noise in the forward passes of the block.

        Args:
            lengths: Number of tokens of each sequence, either concatenated to one row [1, tokens]
                or in the rows of a padded batch [rows, tokens], without padding.

        Raises:
            ValueError: In the forward pass, if the lengths don't match the batch.
        """
        self._lengths = torch.as_tensor(lengths)
        try:
            yield
        finally:
            self._lengths = None

    def remove(self) -> None:
        """Remove the noise from the model."""
        self._hook.remove()

    def _add_noise(self, embeddings: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if self._lengths is None or not embeddings.training or self.alpha == 0.0:
            return output

        lengths = self._lengths
        rows, tokens, dimensions = output.shape
        # A batch of a single row without padding may be read either way: both give the same.
        if rows == 1 and int(lengths.sum()) == tokens:
            length = lengths.repeat_interleave(lengths, output_size=tokens)[None, :, None]
        elif len(lengths) == rows:
            length = lengths[:, None, None]
        else:
            raise ValueError(
                f"lengths must match a batch {[rows, tokens]}, got {lengths.tolist()}."
            )

        size = to_device(
            (self.alpha / (length * dimensions).sqrt()).to(output.dtype), output.device
        )
        return output + torch.empty_like(output).uniform_(-1.0, 1.0) * size
