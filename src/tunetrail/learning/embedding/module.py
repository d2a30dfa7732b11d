"""EmbeddingModule: a sentence-transformers model that Lightning trains."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tunetrail.config.embedding import LossConfig
from tunetrail.config.loss_choice import resolve_loss
from tunetrail.learning.cpu_layers import optimise_for_training
from tunetrail.learning.devices import to_device
from tunetrail.learning.embedding.data import EmbeddingBatch
from tunetrail.learning.embedding.encoder import (
    TextColumn,
    build_encoder,
    encode_texts,
    transformer_of,
)
from tunetrail.learning.embedding.losses import build_vector_loss
from tunetrail.learning.embedding.reader import load_embedding_model
from tunetrail.learning.flops import token_cost
from tunetrail.learning.padding_free.attention import SEGMENT_ATTENTION
from tunetrail.learning.tokens.prompts import QUERY, prompt_of
from tunetrail.learning.tokens.tokenized import TokenizedTexts
from tunetrail.learning.torch_internals import undo_compile
from tunetrail.learning.training.micro_batches import SharedBatch
from tunetrail.learning.training.module import ComputeCost, TrainedModule
from tunetrail.learning.training.ranks import encoded_by_all_ranks, vectors_of_all_ranks
from tunetrail.learning.training.records import NDArray


class EmbeddingModule(TrainedModule):
    """Trains an embedding model on batches that are each of one sample shape.

    Hyper-parameters are plain Python values, so that checkpoints load with `weights_only=True`.

    Args:
        model: Folder of the model that training starts from.
        shape: Name of the samples' shape.
        loss: A loss that fits the shape, or `auto`.
        loss_options: Keywords of `LossConfig`.
        extensions: Options of installed packages' losses, by loss.
        further_losses: Losses for batches of other shapes, by the shapes' names.
        matryoshka_dimensions: Each loss is also summed over vectors cut to these dimensions.
        matryoshka_weights: A weight for each of them.
        max_length: Longest text in tokens.
        mini_batch_size: Above 0, batches go through the model in pieces of this many rows, whose
            negatives still come from the whole batch: the gradients of GradCache (Gao et al. 2021,
            https://arxiv.org/abs/2101.06983), by torch's activation checkpointing.
        padding_free: Compute no padding if the model allows it.
        optimization: Keywords of `configure_optimizer`.
        seed: Seed of dropout.

    Attributes:
        losses: The loss of each shape.
    """

    cuts_itself = True

    def __init__(
        self,
        *,
        model: str,
        shape: str,
        loss: str = "auto",
        loss_options: Mapping[str, Any] | None = None,
        extensions: Mapping[str, Mapping[str, Any]] | None = None,
        further_losses: Mapping[str, str] | None = None,
        matryoshka_dimensions: Sequence[int] = (),
        matryoshka_weights: Sequence[float] | None = None,
        max_length: int = 128,
        mini_batch_size: int = 0,
        padding_free: bool = True,
        optimization: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(optimization=optimization or {}, seed=seed)
        self.save_hyperparameters()

        self.model = load_embedding_model(model, max_length)
        self.mini_batch_size = mini_batch_size
        tokenized = TokenizedTexts(self.model)
        self.encoder = build_encoder(self.model, tokenized, padding_free=padding_free)
        if self.encoder.padding_free:
            transformer_of(self.model).set_attn_implementation(SEGMENT_ATTENTION)
        # Pooling reads the tokens' vectors, so BERT's own pooler never gets a gradient. Without
        # freezing it, data-parallel training would wait for one.
        pooler = getattr(transformer_of(self.model), "pooler", None)
        if isinstance(pooler, torch.nn.Module):
            pooler.requires_grad_(False)

        # `auto` is resolved once, so that the preflight checks see the loss itself.
        # The options are for the loss of the module's own shape.
        loss_names = {shape: loss, **(further_losses or {})}
        options = {shape: LossConfig(**(loss_options or {}))}
        self.losses = {name: resolve_loss(name, chosen) for name, chosen in loss_names.items()}
        self._loss_functions = {
            name: build_vector_loss(
                name,
                chosen,
                options.get(name),
                extensions=extensions,
                matryoshka_dimensions=matryoshka_dimensions,
                matryoshka_weights=matryoshka_weights,
            )
            for name, chosen in loss_names.items()
        }

        self._cost = token_cost(self.model)
        optimise_for_training(self.model)

    def trained(self) -> SentenceTransformer:
        """Return the model as it was loaded except for its weights: it takes padded texts again."""
        if self.encoder.padding_free:
            transformer_of(self.model).set_attn_implementation("sdpa")
        undo_compile(self.model)
        model: SentenceTransformer = self.model.cpu().eval()
        return model

    def loss_of(self, batch: SharedBatch) -> Tensor:
        """Return the sum of the losses of a micro-batch's rows, with the loss of their shape.

        The rows of all ranks count: each rank encodes its own, and compares them with all others.
        """
        if len(batch.shares) == 1 or not batch.is_divided:
            # With fewer rows than ranks, every rank computes all of them.
            return self._loss(batch.batch, self._vectors(batch.batch))

        share_vectors = self._vectors(batch.share)
        sizes = [share.sizes for share in batch.shares]
        vectors = vectors_of_all_ranks(share_vectors, sizes, batch.rank)
        return self._loss(batch.batch, vectors)

    def cost_of(self, batch: SharedBatch) -> ComputeCost:
        """Return the tokens of the texts that this rank has encoded."""
        lengths, computed = self.encoder.forget()
        flops = self._cost.training(lengths)
        return ComputeCost(tokens=sum(lengths), computed=computed, flops=flops)

    def _loss(self, micro_batch: EmbeddingBatch, vectors: list[Tensor]) -> Tensor:
        """Return the loss of the batch's shape times its rows."""
        target = micro_batch.target
        if target is not None:
            target = to_device(target, vectors[0].device)
        return self._loss_functions[micro_batch.shape](vectors, target) * micro_batch.weight

    def measures_of(self, micro_batch: EmbeddingBatch) -> dict[str, Tensor]:
        """Return the batch's loss times its rows."""
        return {"loss": self._loss(micro_batch, self._vectors(micro_batch))}

    def is_finite(self, micro_batch: EmbeddingBatch) -> bool:
        """Tell whether the rows' vectors and target are finite numbers.

        The loss itself can't tell: many losses need more than one row.
        """
        tensors = self._vectors(micro_batch)
        if micro_batch.target is not None:
            tensors.append(micro_batch.target)
        return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)

    def _vectors(self, micro_batch: EmbeddingBatch) -> list[Tensor]:
        """Return the vectors of each column, computed in mini-batches.

        With gradients, a mini-batch's activations are computed again in the backward pass, with the
        same dropout: memory holds one mini-batch at a time.
        """
        # The recomputation counts its tokens once more.
        self.encoder.forget()
        pieces = cut(micro_batch.columns, self.most_rows)
        if len(pieces) == 1:
            return self.encoder(pieces[0])

        piece_vectors = []
        for piece in pieces:
            if torch.is_grad_enabled():
                piece_vectors.append(checkpoint(self.encoder, piece, use_reentrant=False))
            else:
                piece_vectors.append(self.encoder(piece))
        return [torch.cat(column) for column in zip(*piece_vectors, strict=True)]

    def encode(self, texts: Sequence[str], role: str = QUERY) -> NDArray:
        """Return the unit vectors of texts, of which each rank encodes a share.

        The module has to be in evaluation mode.
        """
        encode_share = partial(encode_texts, self.encoder, prompt=prompt_of(self.model, role))
        return encoded_by_all_ranks(encode_share, texts, self.device)


def cut(columns: Sequence[TextColumn], rows: int) -> list[list[TextColumn]]:
    """Cut the columns of a batch into pieces of this many rows; one piece if it is 0."""
    longest = max(len(column.texts) for column in columns)
    pieces = []
    for start in range(0, longest, rows or longest):
        piece_rows = slice(start, start + (rows or longest))
        pieces.append([replace(column, texts=column.texts[piece_rows]) for column in columns])
    return pieces
