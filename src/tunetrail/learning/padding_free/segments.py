"""Sequences of tokens concatenated to one row, and where each of them begins and ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tunetrail.learning.devices import to_device

TokenIds = Sequence[int] | npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """The lengths of the sequences of one row, longest first.

    Sequences of equal length are neighbours, so that attention takes them as one block
    [sequences, length], which is a view of the row and has no padding.

    Attributes:
        groups: (number of sequences, their length), in the row's order.
    """

    groups: tuple[tuple[int, int], ...]

    @property
    def group_tokens(self) -> list[int]:
        """Number of tokens of each group."""
        return [count * length for count, length in self.groups]

    @property
    def tokens(self) -> int:
        """Number of tokens of the row."""
        return sum(self.group_tokens)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest sequence."""
        return max((length for _, length in self.groups), default=0)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each sequence."""
        lengths: list[int] = []
        for count, length in self.groups:
            lengths += [length] * count
        return lengths

    def ends(self, device: torch.device) -> Tensor:
        """Return where each sequence ends, after a 0: int32 [sequences + 1], as kernels take it."""
        ends = torch.tensor([0, *self.lengths]).cumsum(0)
        return to_device(ends.to(torch.int32), device)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConcatenatedTokens:
    """Sequences of tokens in one row, longest first.

    Attributes:
        input_ids: Token ids, int64 [1, tokens].
        position_ids: Position of each token in its sequence, int64 [1, tokens].
        segments: Where the sequences lie; after them comes the filler, if there is any.
        order: Index in the caller's order of each sequence of the row, int64 [sequences].
    """

    input_ids: Tensor
    position_ids: Tensor
    segments: Segments
    order: Tensor

    def features(self, position_offset: int = 0) -> dict[str, Any]:
        """Return a model's inputs: ids, positions, and the segments for us and for flash attention.

        Args:
            position_offset: Position of a sequence's first token; RoBERTa's positions begin after
                that of the padding token.
        """
        position_ids = self.position_ids
        if position_offset:
            position_ids = position_ids + position_offset
        # One sequence sees itself, so queries and keys end in the same places.
        ends = self.segments.ends(self.input_ids.device)

        return {
            "input_ids": self.input_ids,
            "position_ids": position_ids,
            "cu_seq_lens_q": ends,
            "cu_seq_lens_k": ends,
            "max_length_q": self.segments.longest,
            "max_length_k": self.segments.longest,
            "segments": self.segments,
        }

    def sequence_of_token(self) -> Tensor:
        """Return the sequence of the row in which each token lies, int64 [1, tokens]."""
        lengths = torch.tensor(self.segments.lengths)
        sequences = torch.arange(len(lengths)).repeat_interleave(lengths)
        return to_device(sequences[None], self.input_ids.device)

    def in_callers_order(self, values: Tensor) -> Tensor:
        """Return values of the row's sequences, [sequences, ...], in the caller's order.

        The filler's value is left out.
        """
        # The inverse of a permutation, without another sort.
        positions = torch.empty_like(self.order)
        positions[self.order] = torch.arange(len(self.order))
        return values[to_device(positions, values.device)]


def concatenate(
    sequences: Sequence[TokenIds], device: torch.device | str = "cpu", *, multiple: int = 1
) -> ConcatenatedTokens:
    """Concatenate sequences of tokens to one row, longest first.

    Args:
        sequences: Token ids.
        device: Device of the tensors.
        multiple: A sequence of token 0 fills the row up to a multiple of this number. oneDNN
            compiles a product for each number of tokens, and so has to compile fewer.

    Raises:
        ValueError: There is no sequence, or an empty one.
    """
    lengths = np.array(list(map(len, sequences)), dtype=np.int64)
    if not len(lengths) or not lengths.all():
        raise ValueError("every sequence must have a token, got none or an empty one")

    order = np.argsort(-lengths, kind="stable")
    ordered = [np.asarray(sequences[index], dtype=np.int64) for index in order]
    # Last in the row, so that `order` needs no entry for it.
    filler = int(-lengths.sum() % multiple)
    if filler:
        ordered.append(np.zeros(filler, dtype=np.int64))

    row = np.concatenate(ordered)
    ordered_lengths = np.array(list(map(len, ordered)), dtype=np.int64)
    # Where the sequence of each token begins.
    starts = np.repeat(np.cumsum(ordered_lengths) - ordered_lengths, ordered_lengths)
    positions = np.arange(len(row), dtype=np.int64) - starts

    groups = []
    for length, equal in groupby(ordered_lengths.tolist()):
        groups.append((len(list(equal)), length))

    return ConcatenatedTokens(
        input_ids=to_device(torch.from_numpy(row)[None], device),
        position_ids=to_device(torch.from_numpy(positions)[None], device),
        segments=Segments(groups=tuple(groups)),
        order=torch.from_numpy(order),
    )
