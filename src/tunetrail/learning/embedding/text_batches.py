"""Batches of texts to encode: of about equally many tokens, in smaller parts if memory is full."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from torch import Tensor

from tunetrail.learning.out_of_memory import RowIndices, compute_batches
from tunetrail.reporting.progress import progress_console

TOKENS_PER_BATCH = 4096
"""Tokens of an encoded batch: enough for full matrix products, few enough to stay in the caches."""
ROW_MULTIPLE = 8
"""Rows are filled up to a multiple of this if a product is compiled for each number of tokens."""
SHOWN_FROM = 500
"""Texts from which on encoding shows a progress bar."""
# A rule of thumb for English: it only decides how full a batch is.
_CHARACTERS_PER_TOKEN = 4


def encode_in_batches(
    encode: Callable[[list[str]], Tensor],
    texts: Sequence[str],
    *,
    unit: bool = True,
    shown: bool = False,
    batches_at_once: int = 1,
) -> npt.NDArray[np.float32]:
    """Return the vectors of texts, float32 [texts, dimensions], in their order.

    Batches have about `TOKENS_PER_BATCH` tokens, long texts first.

    Args:
        encode: Returns the vectors of some texts, [texts, dimensions], on any device.
        texts: The texts, at least one.
        unit: Whether the vectors are scaled to length 1.
        shown: Whether a progress bar is shown.
        batches_at_once: How many batches `encode` gets in one call, since it computes them side by
            side.
    """

    def encode_rows(rows: RowIndices) -> Tensor:
        vectors = encode([texts[row] for row in rows]).float()
        return (torch.nn.functional.normalize(vectors, dim=-1) if unit else vectors).cpu()

    # The longest first: if memory doesn't suffice, that shows at once.
    lengths = np.array(list(map(len, texts)))
    order = np.argsort(-lengths, kind="stable")
    batches = _batches(order, lengths, batches_at_once * TOKENS_PER_BATCH)
    console = progress_console()
    tracked = track(batches, "Encoding", console=console, transient=True, disable=not shown)
    with torch.inference_mode():
        _, encoded = zip(*compute_batches(tracked, encode_rows), strict=True)

    result = np.empty((len(texts), encoded[0].shape[1]), dtype=np.float32)
    result[order] = torch.cat(encoded).numpy()
    return result


def _batches(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], most_tokens: int
) -> list[npt.NDArray[np.int64]]:
    """Return the rows of each batch; tokens are estimated from the texts' characters."""
    # Two special tokens each; the model cuts off a text that would fill more than a batch.
    tokens = np.minimum(lengths[order] // _CHARACTERS_PER_TOKEN + 2, TOKENS_PER_BATCH)
    return cut_by_tokens(order, tokens, most_tokens)


def cut_by_tokens(
    order: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64], share: float
) -> list[npt.NDArray[np.int64]]:
    """Cut rows into batches of about equally many tokens.

    Args:
        order: The rows.
        tokens: Tokens of each row, in the same order.
        share: Tokens of a batch.
    """
    # A row is in the batch in which its first token lies.
    batch_of = (np.cumsum(tokens) - tokens) // share
    return np.split(order, np.flatnonzero(np.diff(batch_of)) + 1)
