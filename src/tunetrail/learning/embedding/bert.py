"""BERT from its weights alone, for vectors of texts on a CPU.

transformers and sentence-transformers take several times as long to import as this model takes for
the texts of a small session. It is the encoder of Devlin et al. 2019
(https://arxiv.org/abs/1810.04805), and gives their vectors: texts lie one after another in a row
without padding, and each of them attends to itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as functional
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

from tunetrail.learning.cpu_layers.integer_linear import IntegerLinear
from tunetrail.learning.cpu_layers.linear import has_faster_products, linear, linear_gelu
from tunetrail.learning.cpu_layers.one_part_per_core import compute_parts
from tunetrail.learning.embedding.bert_folder import BertFolder
from tunetrail.learning.embedding.text_batches import ROW_MULTIPLE
from tunetrail.learning.padding_free.kernels import Heads, Weighting, attend_in_blocks
from tunetrail.learning.padding_free.segments import ConcatenatedTokens, Segments, concatenate

_INT8 = "int8"

_Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """One layer of the encoder.

    Attributes:
        heads: The product that gives the queries, keys and values, one after another.
        attended: The product of what the heads have attended to.
        attention_norm: The norm after it.
        inner: The product into the wider feed-forward layer, and its GELU.
        outer: The product out of it.
        norm: The norm after it.
    """

    heads: _Product
    attended: _Product
    attention_norm: _Product
    inner: _Product
    outer: _Product
    norm: _Product


class Bert:
    """The vectors of texts by a BERT model.

    Args:
        folder: The model.
        tokenizer: Its tokenizer, which cuts texts at the model's length.
        precision: `float32`, or `int8` for products of 8-bit integers in its linear layers.
    """

    def __init__(self, folder: BertFolder, tokenizer: Tokenizer, precision: str) -> None:
        self._folder, self._tokenizer = folder, tokenizer
        weights = _Weights(load_file(folder.weights), folder.epsilon, precision)
        self._words = weights["embeddings.word_embeddings.weight"]
        # All tokens of a text are of its first part.
        first_part = weights["embeddings.token_type_embeddings.weight"][0]
        self._positions = weights["embeddings.position_embeddings.weight"] + first_part
        self._norm = weights.norm("embeddings.LayerNorm")
        self._layers = list(map(weights.layer, range(weights.layer_count)))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the vectors of texts, float32 [texts, dimensions], not scaled.

        The texts are divided between torch's threads; they are best of similar lengths, or sorted
        by them.
        """
        encodings = self._tokenizer.encode_batch_fast(list(texts))
        token_ids = [encoding.ids or [self._folder.filler] for encoding in encodings]

        count = min(torch.get_num_threads(), len(texts))
        parts = [token_ids[first::count] for first in range(count)]
        vectors = compute_parts(self._encode_tokens, parts)

        result = vectors[0].new_empty(len(texts), vectors[0].shape[1])
        for first, part in enumerate(vectors):
            result[first::count] = part
        return result

    def _encode_tokens(self, token_ids: Sequence[list[int]]) -> Tensor:
        tokens = concatenate(token_ids, multiple=ROW_MULTIPLE if has_faster_products() else 1)

        embeddings = self._words[tokens.input_ids[0]] + self._positions[tokens.position_ids[0]]
        hidden = self._norm(embeddings)
        for layer in self._layers:
            hidden = self._apply(layer, hidden, tokens.segments)
        return self._pool(hidden, tokens)

    def _apply(self, layer: _Layer, hidden: Tensor, segments: Segments) -> Tensor:
        heads = layer.heads(hidden).view(len(hidden), 3, self._folder.heads, -1)
        query, key, value = heads.unbind(1)
        row = Heads(query=query, key=key, value=value, ends=segments.ends(hidden.device))
        attended = attend_in_blocks(row, segments, Weighting()).flatten(1)

        # In place: taking memory for another tensor would take longer than the sum.
        hidden = layer.attention_norm(layer.attended(attended).add_(hidden))
        return layer.norm(layer.outer(layer.inner(hidden)).add_(hidden))

    def _pool(self, hidden: Tensor, tokens: ConcatenatedTokens) -> Tensor:
        """Return one vector for each text, [texts, dimensions], in the caller's order."""
        segments = tokens.segments
        vectors = []
        for shape, group in zip(
            segments.groups, torch.split(hidden, segments.group_tokens), strict=True
        ):
            block = group.view(*shape, -1)
            vectors.append(block[:, 0] if self._folder.pooling == "cls" else block.mean(dim=1))
        return tokens.in_callers_order(torch.cat(vectors))


class _Weights:
    """The weights of a BERT model by their names, and the functions that they make."""

    def __init__(self, tensors: Mapping[str, Tensor], epsilon: float, precision: str) -> None:
        # Of a model that was saved with a head, such as for masked words.
        self._tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
        self._epsilon = epsilon
        self._precision = precision

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].float()

    @property
    def layer_count(self) -> int:
        """The number of layers."""
        names = (name.split(".") for name in self._tensors if name.startswith("encoder.layer."))
        return 1 + max(int(words[2]) for words in names)

    def norm(self, name: str) -> _Product:
        """Return a layer norm."""
        weight, bias = self[f"{name}.weight"], self[f"{name}.bias"]
        return partial(
            functional.layer_norm,
            normalized_shape=list(weight.shape),
            weight=weight,
            bias=bias,
            eps=self._epsilon,
        )

    def product(self, *names: str) -> _Product:
        """Return a linear layer, or several of the same inputs as one."""
        weight = torch.cat([self[f"{name}.weight"] for name in names])
        bias = torch.cat([self[f"{name}.bias"] for name in names])
        if self._precision == _INT8:
            return IntegerLinear(weight, bias)
        return partial(linear, weight=weight, bias=bias)

    def product_with_gelu(self, name: str) -> _Product:
        """Return a linear layer whose output goes through a GELU."""
        if self._precision == _INT8:
            product = self.product(name)
            return lambda rows: functional.gelu(product(rows))
        return partial(linear_gelu, weight=self[f"{name}.weight"], bias=self[f"{name}.bias"])

    def layer(self, index: int) -> _Layer:
        """Return a layer of the encoder."""
        name = f"encoder.layer.{index}"
        attention = f"{name}.attention"
        inputs = [f"{attention}.self.{input}" for input in ("query", "key", "value")]
        return _Layer(
            heads=self.product(*inputs),
            attended=self.product(f"{attention}.output.dense"),
            attention_norm=self.norm(f"{attention}.output.LayerNorm"),
            inner=self.product_with_gelu(f"{name}.intermediate.dense"),
            outer=self.product(f"{name}.output.dense"),
            norm=self.norm(f"{name}.output.LayerNorm"),
        )
