"""NEFTune: noise on a language model's embeddings during training (Jain et al. 2023, arXiv:2310.05914)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel


class EmbeddingNoise:
    """Adds uniform noise of at most alpha / sqrt(length * dimensions) to the embeddings of each sequence.

    It acts only within `over`, and only while the model is in training mode. The noise comes from torch's generator of
    the model's device.

    Args:
        model: The model whose input embeddings' output is changed; its weights are left alone.
        alpha: Size of the noise; 0 adds none.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, alpha: float) -> None:
        self.alpha = alpha
        self._lengths: Tensor | None = None
        embeddings: nn.Module = model.get_input_embeddings()
        self._hook = embeddings.register_forward_hook(self._noisy)

    @contextmanager
    def over(self, lengths: Sequence[int] | Tensor) -> Iterator[None]:
        """Add noise in the forward passes of the with block.

        Args:
            lengths: Tokens of each sequence: those of the sequences concatenated in a batch [1, tokens], which add up
                to `tokens`, or those of the rows of a padded batch [rows, tokens], padding apart.

        Raises:
            ValueError: In the forward pass, if the lengths are not those of the batch.
        """
        self._lengths = torch.as_tensor(lengths)
        try:
            yield
        finally:
            self._lengths = None

    def remove(self) -> None:
        """Take the noise out of the model."""
        self._hook.remove()

    def _noisy(self, embeddings: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if self._lengths is None or not embeddings.training or self.alpha == 0.0:
            return output
        lengths = self._lengths
        rows, tokens, dimensions = output.shape
        if rows == 1 and int(lengths.sum()) == tokens:
            length = lengths.repeat_interleave(lengths, output_size=tokens)[None, :, None]
        elif len(lengths) == rows:
            length = lengths[:, None, None]
        else:
            raise ValueError(
                f"lengths must be those of a batch {[rows, tokens]}, got {lengths.tolist()}."
            )
        size = (self.alpha / (length * dimensions).sqrt()).to(output)
        return output + torch.empty_like(output).uniform_(-1.0, 1.0) * size
