"""EmbeddingModule: a sentence-transformers model that Lightning trains."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tunetrail.config.embedding import LossConfig
from tunetrail.config.losses import resolve_loss
from tunetrail.errors import ModelError
from tunetrail.learning.cpu_layers import optimise, optimise_for_training
from tunetrail.learning.embedding.data import EmbeddingBatch
from tunetrail.learning.embedding.encoder import Encoder, TextColumn, build_encoder, transformer_of
from tunetrail.learning.embedding.losses import build_vector_loss
from tunetrail.learning.flops import token_cost
from tunetrail.learning.padding_free.attention import SEGMENT_ATTENTION
from tunetrail.learning.tokens.tokenized import TokenizedTexts
from tunetrail.learning.training.memory_settings import undo_compile
from tunetrail.learning.training.module import (
    StepTotals,
    TrainedModule,
    mini_batch_slices,
    step_seed,
)


def load_embedding_model(path: str, max_length: int | None = None) -> SentenceTransformer:
    """Load a local sentence-transformers folder onto the CPU, from safetensors only and without remote code.

    Raises:
        ModelError: The model has no tokenizer of transformers, as one of static embeddings.
    """
    model = SentenceTransformer(
        path,
        device="cpu",
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )
    if not isinstance(model.tokenizer, PreTrainedTokenizerBase):
        raise ModelError(
            f"{path} must be a model with a transformer, got {type(model[0]).__name__}. Choose another base model."
        )
    if max_length is not None:
        config = getattr(getattr(model[0], "auto_model", None), "config", None)
        longest = getattr(config, "max_position_embeddings", None) or max_length
        model.max_seq_length = min(max_length, longest)
    optimise(model)
    return model


class EmbeddingModule(TrainedModule):
    """Trains an embedding model on batches that are each of one sample shape.

    Hyper-parameters are plain Python values, so checkpoints load with `weights_only=True`.

    Args:
        model: Folder of the model that training starts from.
        shape: Name of the samples' shape.
        loss: A loss that fits the shape, or `auto`.
        loss_options: Keywords of `LossConfig`.
        further_losses: Losses for batches of other shapes, by the shapes' names.
        matryoshka_dimensions: Each loss is summed over vectors cut to these dimensions, too.
        matryoshka_weights: One for each of them.
        max_length: Longest text in tokens.
        mini_batch_size: Above 0: batches go through the model in pieces of so many rows, whose negatives are still
            those of the whole batch (GradCache, Gao et al. 2021, https://arxiv.org/abs/2101.06983).
        padding_free: Compute no padding where the model allows it.
        optimization: Keywords of `configure_optimizer`.
        seed: Of dropout.
        max_grad_norm: Gradients are scaled down to this norm; 0: off.
    """

    def __init__(
        self,
        *,
        model: str,
        shape: str,
        loss: str = "auto",
        loss_options: Mapping[str, Any] | None = None,
        further_losses: Mapping[str, str] | None = None,
        matryoshka_dimensions: Sequence[int] = (),
        matryoshka_weights: Sequence[float] | None = None,
        max_length: int = 128,
        mini_batch_size: int = 0,
        padding_free: bool = True,
        optimization: Mapping[str, Any] | None = None,
        seed: int = 0,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__(optimization=optimization or {}, seed=seed, max_grad_norm=max_grad_norm)
        self.save_hyperparameters()
        self.model = load_embedding_model(model, max_length)
        self.mini_batch_size = mini_batch_size
        self.encoder: Encoder = build_encoder(
            self.model, TokenizedTexts(self.model), padding_free=padding_free
        )
        if self.encoder.padding_free:
            transformer_of(self.model).set_attn_implementation(SEGMENT_ATTENTION)
        names = {shape: loss, **(further_losses or {})}
        self.losses = {shape: resolve_loss(shape, name) for shape, name in names.items()}
        options = {shape: LossConfig(**(loss_options or {}))}
        self._losses = {
            name: build_vector_loss(
                name,
                chosen.name,
                options.get(name),
                matryoshka_dimensions=matryoshka_dimensions,
                matryoshka_weights=matryoshka_weights,
            )
            for name, chosen in self.losses.items()
        }
        self._cost = token_cost(self.model)
        optimise_for_training(self.model)

    def trained(self) -> SentenceTransformer:
        """Return the model as it was loaded but for its weights: it takes padded texts again."""
        if self.encoder.padding_free:
            transformer_of(self.model).set_attn_implementation("sdpa")
        undo_compile(self.model)
        model: SentenceTransformer = self.model.cpu().eval()
        return model

    def backward_of(self, micro_batch: EmbeddingBatch, scale: float) -> StepTotals:
        """Add the gradient of the batch's loss; in pieces, each goes through the model twice (GradCache)."""
        columns = micro_batch.columns
        pieces = cut(columns, self.mini_batch_size)
        self.encoder.forget()  # what an attempt counted that ran out of memory
        if len(pieces) == 1:
            loss = self._loss(micro_batch, self.encoder(columns))
            self.manual_backward(loss * scale)
            return self._work(loss)
        seeds = [step_seed(int(torch.randint(2**62, ())), number) for number in range(len(pieces))]
        leaves = self._vectors_without_graph(pieces, seeds)
        loss = self._loss(micro_batch, leaves)
        gradients = torch.autograd.grad(loss * scale, leaves)
        work = self._work(loss)
        parts = zip(
            *(
                torch.split(gradient, _sizes(pieces, column))
                for column, gradient in enumerate(gradients)
            ),
            strict=True,
        )
        for piece, part, seed in zip(pieces, parts, seeds, strict=True):
            torch.manual_seed(seed)  # the same dropout as in the first pass
            vectors = self.encoder(piece)
            surrogate = torch.stack(
                [(each * its).sum() for each, its in zip(vectors, part, strict=True)]
            ).sum()
            with nullcontext() if piece is pieces[-1] else self.without_synchronisation():
                self.manual_backward(surrogate)
        self.encoder.forget()
        return work

    def _loss(self, micro_batch: EmbeddingBatch, vectors: list[Tensor]) -> Tensor:
        """Return the loss of the batch's shape times its rows."""
        target = micro_batch.target
        if target is not None:
            target = target.to(vectors[0].device)
        return self._losses[micro_batch.shape](vectors, target) * micro_batch.weight

    def _vectors_without_graph(
        self, pieces: list[list[TextColumn]], seeds: list[int]
    ) -> list[Tensor]:
        parts = []
        with torch.no_grad():
            for piece, seed in zip(pieces, seeds, strict=True):
                torch.manual_seed(seed)
                parts.append(self.encoder(piece))
        return [torch.cat(column).requires_grad_() for column in zip(*parts, strict=True)]

    def _work(self, loss: Tensor) -> StepTotals:
        lengths, computed = self.encoder.forget()
        return StepTotals(
            loss=loss.detach(),
            tokens=sum(lengths),
            computed=computed,
            flops=self._cost.training(lengths),
        )

    def measures_of(self, micro_batch: EmbeddingBatch) -> dict[str, Tensor]:
        """Return the batch's loss times its rows."""
        pieces = [self.encoder(piece) for piece in cut(micro_batch.columns, self.mini_batch_size)]
        loss = self._loss(micro_batch, [torch.cat(column) for column in zip(*pieces, strict=True)])
        self.encoder.forget()
        return {"loss": loss}

    def is_finite(self, micro_batch: EmbeddingBatch) -> bool:
        """Tell whether the rows' vectors and target are finite numbers: many losses need more than one row."""
        numbers = [
            each
            for piece in cut(micro_batch.columns, self.mini_batch_size)
            for each in self.encoder(piece)
        ]
        self.encoder.forget()
        if micro_batch.target is not None:
            numbers.append(micro_batch.target)
        return all(bool(torch.isfinite(each).all()) for each in numbers)


def cut(columns: Sequence[TextColumn], rows: int) -> list[list[TextColumn]]:
    """Cut the columns of a batch into pieces of so many rows; one piece where it is 0."""
    longest = max(len(column.texts) for column in columns)
    return [
        [TextColumn(texts=column.texts[part], prompt=column.prompt) for column in columns]
        for part in mini_batch_slices(longest, rows)
    ]


def _sizes(pieces: list[list[TextColumn]], column: int) -> list[int]:
    return [len(piece[column].texts) for piece in pieces]
