"""Segments: where each sequence begins and ends in a row of concatenated tokens. Knows nothing of models."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TokenIds = Sequence[int] | npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """The lengths of the sequences of one row, longest first.

    Equal lengths lie side by side, so that attention takes them as one block [sequences, length]
    that is cut from the row without copying and has no padding.

    Attributes:
        groups: (number of sequences, their length), in the row's order.
    """

    groups: tuple[tuple[int, int], ...]

    @property
    def tokens(self) -> int:
        """Tokens of the row."""
        return sum(count * length for count, length in self.groups)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max((length for _, length in self.groups), default=0)

    @property
    def lengths(self) -> list[int]:
        """Tokens per sequence."""
        return [length for count, length in self.groups for _ in range(count)]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConcatenatedTokens:
    """Sequences of tokens in one row, longest first.

    Attributes:
        input_ids: Token ids, int64 [1, tokens].
        position_ids: Place of each token in its sequence, int64 [1, tokens].
        segments: Where the sequences lie, and behind them the filler, if any.
        order: Number of each sequence in the caller's order, int64 [sequences]: row order to
            caller's order.
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: Segments
    order: Tensor

    def features(self, position_offset: int = 0) -> dict[str, Any]:
        """Return what a model takes: ids, positions, and the segments in our form and in flash attention's.

        Args:
            position_offset: Position of a sequence's first token (RoBERTa's begin behind the
                padding token).
        """
        lengths = torch.tensor([0, *self.segments.lengths])
        ends = lengths.cumsum(0).to(device=self.input_ids.device, dtype=torch.int32)
        return {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids + position_offset
            if position_offset
            else self.position_ids,
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": self.segments.longest,
            "max_length_k": self.segments.longest,
            "segments": self.segments,
        }

    def in_callers_order(self, values: Tensor) -> Tensor:
        """Return `values` [sequences, ...], one per sequence in the row's order, in the caller's order."""
        places = torch.empty_like(self.order)
        places[self.order] = torch.arange(len(self.order))
        return values[places.to(values.device)]  # without the filler's


def concatenate(
    rows: Sequence[TokenIds], device: torch.device | str = "cpu", *, multiple: int = 1
) -> ConcatenatedTokens:
    """Put sequences of tokens into one row, longest first.

    Args:
        rows: Token ids.
        device: Of the tensors.
        multiple: A sequence of token 0 fills the row up to a multiple of this: a library that
            compiles a product for each number of tokens (oneDNN) then meets few of them.

    Raises:
        ValueError: There is no sequence, or an empty one.
    """
    arrays = [np.asarray(row, dtype=np.int64) for row in rows]
    lengths = np.array([len(array) for array in arrays], dtype=np.int64)
    if not len(lengths) or not lengths.all():
        raise ValueError("every sequence must have a token, got none or an empty one")
    order = np.argsort(-lengths, kind="stable")
    filler = int(-lengths.sum() % multiple)
    row = np.concatenate([*(arrays[number] for number in order), np.zeros(filler, dtype=np.int64)])
    sorted_lengths = np.append(lengths[order], [filler] if filler else []).astype(np.int64)
    starts = np.repeat(np.cumsum(sorted_lengths) - sorted_lengths, sorted_lengths)
    positions = np.arange(len(row), dtype=np.int64) - starts
    return ConcatenatedTokens(
        input_ids=torch.from_numpy(row)[None].to(device),
        position_ids=torch.from_numpy(positions)[None].to(device),
        segments=Segments(
            groups=tuple((len(list(same)), int(length)) for length, same in groupby(sorted_lengths))
        ),
        order=torch.from_numpy(order),
    )
