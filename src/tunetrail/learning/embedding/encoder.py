"""Texts to vectors through a sentence-transformers model: in training and in evaluation, without padding where it can.

The concatenated form is sentence-transformers' own for flash attention, so pooling and all modules behind it work on it
as they are; attention within segments takes flash attention's place on any device.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from sentence_transformers import SentenceTransformer
from torch import Tensor

from tunetrail.learning.cpu_layers.linear import has_faster_products
from tunetrail.learning.evaluation_mode import evaluating
from tunetrail.learning.padding_free.attention import segment_attention_of
from tunetrail.learning.padding_free.segments import concatenate
from tunetrail.learning.tokens.tokenized import TokenizedTexts
from tunetrail.learning.training.out_of_memory import compute_batches

logger = logging.getLogger(__name__)

TOKENS_PER_BATCH = 4096
"""Of an encoded batch: enough for full matrix products, little enough to stay in the caches."""
ROW_MULTIPLE = 8
"""Rows are filled up to so many tokens where a product is compiled, and kept, for each number of tokens."""
_PROBES = [
    "a",
    "one two three",
    "a text that is somewhat longer than the others, so that lengths differ",
]
_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class TextColumn:
    """Texts, and what is read before each of them."""

    texts: Sequence[str]
    prompt: str = ""


@dataclass(kw_only=True)
class Encoder:
    """Encodes columns of texts with one model.

    Attributes:
        model: The model; without padding only within `concatenating`.
        tokenized: Its tokens.
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
            return [self._padded(column) for column in columns]
        constants = [self.tokenized.constants(column.prompt) for column in columns]
        if any(
            each != constants[0] for each in constants
        ):  # prompts that pooling leaves out, of different lengths
            return [self._concatenated([column]) for column in columns]
        sizes = [len(column.texts) for column in columns]
        return list(torch.split(self._concatenated(columns), sizes))

    def forget(self) -> tuple[list[int], int]:
        """Return the lengths of the texts encoded and the tokens computed for them, and count from zero."""
        counted = (self.lengths, self.computed)
        self.lengths, self.computed = [], 0
        return counted

    def _concatenated(self, columns: Sequence[TextColumn]) -> Tensor:
        rows = [
            ids for column in columns for ids in self.tokenized.ids(column.texts, column.prompt)
        ]
        if not rows:
            return torch.zeros(
                0, self.model.get_embedding_dimension() or 0, device=self.model.device
            )
        filler = np.array([self.model.tokenizer.pad_token_id or 0])
        rows = [
            ids if len(ids) else filler for ids in rows
        ]  # an empty text, where a tokenizer puts nothing around it
        tokens = concatenate(
            rows, self.model.device, multiple=ROW_MULTIPLE if has_faster_products() else 1
        )
        self.lengths += [len(ids) for ids in rows]
        self.computed += tokens.segments.tokens
        transformer: Any = self.model[0]
        features = tokens.features(transformer._infer_flatten_position_offset())
        features |= self.tokenized.constants(columns[0].prompt) or {}
        return tokens.in_callers_order(self.model(features)["sentence_embedding"])

    def _padded(self, column: TextColumn) -> Tensor:
        if not column.texts:
            return torch.zeros(
                0, self.model.get_embedding_dimension() or 0, device=self.model.device
            )
        features = self.tokenized(list(column.texts), column.prompt)
        mask = features.get("attention_mask")
        if mask is not None:
            self.lengths += mask.sum(dim=1).tolist()
            self.computed += mask.numel()
        moved = {
            key: each.to(self.model.device) if isinstance(each, Tensor) else each
            for key, each in features.items()
        }
        return self.model(moved)["sentence_embedding"]  # type: ignore[no-any-return]


@contextmanager
def concatenating(model: SentenceTransformer) -> Iterator[None]:
    """Let the model take concatenated texts; afterwards it takes padded ones, as before."""
    with segment_attention_of(transformer_of(model)):
        yield


def transformer_of(model: SentenceTransformer) -> Any:
    """Return the transformers model within a sentence-transformers model, None if there is none."""
    return getattr(model[0], "auto_model", None)


def why_padded(model: SentenceTransformer, tokenized: TokenizedTexts) -> str | None:
    """Return why a model needs padded batches, None where it gives the same vectors without padding.

    Found by trying: a few texts go through both ways. Leaves the model's mode and random generators as they were.
    """
    transformer = transformer_of(model)
    if transformer is None:
        return "it is no transformer"
    if not transformer.is_backend_compatible():
        return "its attention can't be exchanged"
    window = getattr(transformer.config, "sliding_window", None) or getattr(
        transformer.config, "local_attention", None
    )
    if window and window < (model.max_seq_length or window):
        return f"its layers see {window} tokens only"
    if tokenized.constants("") is None:
        return "its tokenizer gives features of its own"
    column = [TextColumn(texts=_PROBES)]
    try:
        with evaluating(model), torch.inference_mode():
            expected = Encoder(model=model, tokenized=tokenized)(column)[0]
            with concatenating(model):
                found = Encoder(model=model, tokenized=tokenized, padding_free=True)(column)[0]
    except (NotImplementedError, TypeError, ValueError, RuntimeError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    difference = float((expected - found).abs().max())
    scale = float(expected.abs().max())
    return (
        None
        if difference <= _TOLERANCE * scale
        else f"its vectors would differ by {difference / scale:.1e}"
    )


def build_encoder(
    model: SentenceTransformer, tokenized: TokenizedTexts, *, padding_free: bool = True
) -> Encoder:
    """Return an encoder without padding, or with it where it isn't wanted or the model needs it, which is logged."""
    reason = (
        why_padded(model, tokenized) if padding_free else "training.batches.padding_free is false"
    )
    if padding_free and reason:
        logger.warning("texts are padded: the model can't do without (%s)", reason)
    return Encoder(model=model, tokenized=tokenized, padding_free=reason is None)


def encode_texts(
    encoder: Encoder,
    texts: Sequence[str],
    prompt: str = "",
    *,
    unit: bool = True,
    shown: bool = False,
) -> npt.NDArray[np.float32]:
    """Return the vectors of texts, of length 1 unless `unit` is false, float32 [texts, dimensions], in their order.

    Batches of about `TOKENS_PER_BATCH` tokens, long texts first; the model has to be in evaluation mode.
    """
    if not texts:
        return np.zeros((0, encoder.model.get_embedding_dimension() or 0), dtype=np.float32)
    lengths = np.array([len(text) for text in texts])
    order = np.argsort(-lengths, kind="stable")

    def encoded(numbers: npt.NDArray[Any]) -> Tensor:
        (vectors,) = encoder(
            [TextColumn(texts=[texts[number] for number in numbers], prompt=prompt)]
        )
        vectors = vectors.float()
        return (torch.nn.functional.normalize(vectors, dim=-1) if unit else vectors).cpu()

    batches = track(
        list(_batches(order, lengths)),
        "Encoding",
        console=Console(stderr=True),
        transient=True,
        disable=not shown,
    )
    with torch.inference_mode():
        parts = [vectors for _, vectors in compute_batches(batches, encoded)]
    encoder.forget()
    found = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
    found[order] = torch.cat(parts).numpy()
    return found


_CHARACTERS_PER_TOKEN = 4


def _batches(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the numbers of texts that make up a batch, as estimated from their characters."""
    tokens = np.minimum(lengths[order] // _CHARACTERS_PER_TOKEN + 2, TOKENS_PER_BATCH)
    numbers = (np.cumsum(tokens) - tokens) // TOKENS_PER_BATCH
    yield from np.split(order, np.flatnonzero(np.diff(numbers)) + 1)
