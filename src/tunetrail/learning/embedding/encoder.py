"""Texts to vectors through a sentence-transformers model, without padding if the model allows it.

The concatenated form is sentence-transformers' own for flash attention, so that pooling and all
later modules work on it as they are; attention within segments takes flash attention's place on any
device.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from tunetrail.learning.cpu_layers.linear import has_faster_products
from tunetrail.learning.devices import to_device
from tunetrail.learning.embedding.text_batches import (
    ROW_MULTIPLE,
    SHOWN_FROM,
    cut_by_tokens,
    encode_in_batches,
)
from tunetrail.learning.evaluation_mode import evaluating
from tunetrail.learning.padding_free.attention import segment_attention_of
from tunetrail.learning.padding_free.segments import concatenate
from tunetrail.learning.tokens.tokenized import TokenizedTexts

logger = logging.getLogger(__name__)

_PROBES = [
    "a",
    "one two three",
    "a text that is somewhat longer than the others, so that lengths differ",
]
# Tokens of a row whose activations are kept for the backward pass.
#
# The C library gives memory of more than 32 MB back to the system as soon as it is free, and the
# system fills it with zeros at its next use, which takes longer than a layer's own computation. A
# feed-forward layer of 1,536 reaches that size at 5,500 tokens.
_MOST_TRAINED_TOKENS = 4096
# Largest difference of vectors without padding, relative to the largest entry.
_TOLERANCE = 1e-4
# Why a model needs padded batches, as long as it lives: by its device, precision and length.
_REASONS: WeakKeyDictionary[SentenceTransformer, dict[tuple[Any, ...], str | None]] = (
    WeakKeyDictionary()
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TextColumn:
    """Texts, and the prompt that the model reads before each of them."""

    texts: Sequence[str]
    prompt: str = ""


@dataclass(kw_only=True)
class Encoder:
    """Encodes columns of texts with one model.

    Attributes:
        model: The model; without padding only within `concatenating`.
        tokenized: The tokens of its texts.
        padding_free: Whether texts are concatenated instead of padded.
        lengths: Tokens of the texts encoded since the last `forget`.
        computed: Tokens computed for them, padding included.
    """

    model: SentenceTransformer
    tokenized: TokenizedTexts
    padding_free: bool = False
    lengths: list[int] = field(default_factory=list)
    computed: int = 0

    def __call__(self, columns: Sequence[TextColumn]) -> list[Tensor]:
        """Return the vectors [texts, dimensions] of each column."""
        if not self.padding_free:
            return list(map(self._encode_padded, columns))

        # Prompts that pooling leaves out must have one length within a pass through the model.
        constants = [self.tokenized.constants(column.prompt) for column in columns]
        if any(constant != constants[0] for constant in constants):
            return [self._encode_concatenated([column]) for column in columns]

        sizes = [len(column.texts) for column in columns]
        return list(torch.split(self._encode_concatenated(columns), sizes))

    def forget(self) -> tuple[list[int], int]:
        """Return the lengths of the texts encoded and the tokens computed; restart the count."""
        counted = (self.lengths, self.computed)
        self.lengths, self.computed = [], 0
        return counted

    def _encode_concatenated(self, columns: Sequence[TextColumn]) -> Tensor:
        """Return the vectors of texts that go through the model without padding.

        They make up one row, or rows of about equally many tokens where a longer one is slower.
        """
        # An empty text has no tokens if the tokenizer puts nothing around it.
        filler = np.array([self.model.tokenizer.pad_token_id or 0])
        rows = []
        for column in columns:
            for ids in self.tokenized.ids(column.texts, column.prompt):
                rows.append(ids if len(ids) else filler)
        if not rows:
            return self._no_vectors()

        lengths = np.array(list(map(len, rows)))
        self.lengths += lengths.tolist()
        # Such as the prompt's length, which pooling needs if it leaves prompts out.
        constants = self.tokenized.constants(columns[0].prompt) or {}

        pieces = -(-int(lengths.sum()) // _MOST_TRAINED_TOKENS)
        is_cut = self.model.device.type == "cpu" and torch.is_grad_enabled()
        if pieces == 1 or not is_cut:
            return self._encode_row(rows, constants)

        order = np.argsort(-lengths, kind="stable")
        vectors = []
        for piece in cut_by_tokens(order, lengths[order], lengths.sum() / pieces):
            vectors.append(self._encode_row([rows[index] for index in piece], constants))
        return torch.cat(vectors)[np.argsort(order)]

    def _encode_row(
        self, texts: Sequence[npt.NDArray[np.int64]], constants: Mapping[str, Any]
    ) -> Tensor:
        """Return the vectors of texts, given by their tokens' ids, that make up one row."""
        # Elsewhere a new number of tokens costs nothing, and filler would.
        multiple = ROW_MULTIPLE if has_faster_products() else 1
        tokens = concatenate(texts, self.model.device, multiple=multiple)
        self.computed += tokens.segments.tokens

        transformer: Any = self.model[0]
        # RoBERTa's positions don't begin at 0; the library knows which models are like that.
        features = tokens.features(transformer._infer_flatten_position_offset())
        # Pooling would count the tokens on the device, and have the CPU wait for the result.
        features["seq_idx"] = tokens.sequence_of_token()
        features |= constants
        return tokens.in_callers_order(self.model(features)["sentence_embedding"])

    def _encode_padded(self, column: TextColumn) -> Tensor:
        if not column.texts:
            return self._no_vectors()

        # Some models have no mask; their tokens aren't counted.
        features = self.tokenized(list(column.texts), column.prompt)
        mask = features.get("attention_mask")
        if mask is not None:
            self.lengths += mask.sum(dim=1).tolist()
            self.computed += mask.numel()

        moved = dict(features)
        for name, feature in features.items():
            if isinstance(feature, Tensor):
                moved[name] = to_device(feature, self.model.device)
        vectors: Tensor = self.model(moved)["sentence_embedding"]
        return vectors

    def _no_vectors(self) -> Tensor:
        dimensions = self.model.get_embedding_dimension() or 0
        return torch.zeros(0, dimensions, device=self.model.device)


@contextmanager
def concatenating(model: SentenceTransformer) -> Iterator[None]:
    """Let the model take concatenated texts; afterwards it takes padded ones, as before."""
    with segment_attention_of(transformer_of(model)):
        yield


def transformer_of(model: SentenceTransformer) -> Any:
    """Return the transformers model within a sentence-transformers model, None if there is none."""
    return getattr(model[0], "auto_model", None)


def why_padded(model: SentenceTransformer, tokenized: TokenizedTexts) -> str | None:
    """Return why a model needs padded batches, None if its vectors are the same without padding.

    The answer is found by trying: a few texts go through both ways. The model's mode and the random
    generators stay as they were.
    """
    transformer = transformer_of(model)
    if transformer is None:
        return "it isn't a transformer"
    if not transformer.is_backend_compatible():
        return "its attention can't be exchanged"

    # Segments know no window: a layer that looks at near tokens only would see too much.
    config = transformer.config
    window = getattr(config, "sliding_window", None) or getattr(config, "local_attention", None)
    if window and window < (model.max_seq_length or window):
        return f"its layers see {window} tokens only"
    if tokenized.constants("") is None:
        return "its tokenizer gives features of its own"

    # Private code of a model may fail in any way: then it gets padded batches.
    column = [TextColumn(texts=_PROBES)]
    try:
        with evaluating(model), torch.inference_mode():
            padded = Encoder(model=model, tokenized=tokenized)(column)[0]
            with concatenating(model):
                concatenated = Encoder(model=model, tokenized=tokenized, padding_free=True)(column)[
                    0
                ]
    except (NotImplementedError, TypeError, ValueError, RuntimeError, KeyError) as error:
        return f"{type(error).__name__}: {error}"

    # A difference of NaN isn't within the tolerance either: such a model gets padding.
    difference = float((padded - concatenated).abs().max())
    scale = float(padded.abs().max())
    if difference <= _TOLERANCE * scale:
        return None
    return f"its vectors would differ by {difference / scale:.1e}"


def build_encoder(
    model: SentenceTransformer, tokenized: TokenizedTexts, *, padding_free: bool = True
) -> Encoder:
    """Return an encoder; it pads if `padding_free` is off or the model needs padding."""
    if not padding_free:
        return Encoder(model=model, tokenized=tokenized)

    # No weight changes the answer: a model is tried once on each device, not for each request.
    tried = _REASONS.setdefault(model, {})
    place = (str(model.device), str(model.dtype), model.max_seq_length)
    if place not in tried:
        tried[place] = why_padded(model, tokenized)
    reason = tried[place]
    if reason:
        logger.warning("texts are padded, as the model needs padding (%s)", reason)
    return Encoder(model=model, tokenized=tokenized, padding_free=reason is None)


def encode_texts(
    encoder: Encoder,
    texts: Sequence[str],
    prompt: str = "",
    *,
    unit: bool = True,
    shown: bool = False,
) -> npt.NDArray[np.float32]:
    """Return the vectors of texts, float32 [texts, dimensions], in their order.

    The model has to be in evaluation mode.

    Args:
        encoder: The model's encoder.
        texts: The texts.
        prompt: Read before each of them.
        unit: Whether the vectors are scaled to length 1.
        shown: Whether a progress bar is shown.
    """
    if not texts:
        return np.zeros((0, encoder.model.get_embedding_dimension() or 0), dtype=np.float32)

    def encode_batch(batch: list[str]) -> Tensor:
        return encoder([TextColumn(texts=batch, prompt=prompt)])[0]

    vectors = encode_in_batches(encode_batch, texts, unit=unit, shown=shown)
    # These tokens are no cost of a training.
    encoder.forget()
    return vectors


def encode_with_prompt(
    model: SentenceTransformer, texts: Sequence[str], prompt: str, *, unit: bool = True
) -> npt.NDArray[np.float32]:
    """Return the vectors of texts by a model that isn't in training; see `encode_texts`."""
    encoder = build_encoder(model, TokenizedTexts(model))
    without_padding = concatenating(model) if encoder.padding_free else nullcontext()
    with evaluating(model), without_padding:
        return encode_texts(encoder, texts, prompt, unit=unit, shown=len(texts) > SHOWN_FROM)
