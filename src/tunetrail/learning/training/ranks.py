"""What the ranks of a training exchange: the vectors that a loss compares."""

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor


def vectors_of_all_ranks(
    share_vectors: Sequence[Tensor], sizes: Sequence[Sequence[int]], rank: int
) -> list[Tensor]:
    """Return the vectors of all ranks, column by column, in the order of the ranks.

    Only the vectors of this rank have a gradient. Each rank computes the loss over all vectors, so
    the gradient of its own is complete without an exchange in the backward pass. Data-parallel
    training then takes the mean over the ranks instead of the sum, so the gradient is multiplied by
    the number of ranks.

    Args:
        share_vectors: The vectors [rows, dimensions] of this rank, column by column. An optional
            column, always one of the last, may be missing.
        sizes: Number of rows of each column, rank by rank.
        rank: This rank.
    """
    ranks, columns = len(sizes), max(map(len, sizes))
    flat = torch.cat(list(share_vectors))
    # Equal in value, but with the gradient multiplied.
    scaled = flat.detach() + ranks * (flat - flat.detach())

    # Every rank has to send as many vectors as the others.
    most = max(map(sum, sizes))
    padded = torch.nn.functional.pad(flat.detach(), (0, 0, 0, most - len(flat)))
    gathered = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(gathered, padded)

    columns_of_ranks = []
    for other_rank, rank_sizes in enumerate(sizes):
        vectors = scaled if other_rank == rank else gathered[other_rank][: sum(rank_sizes)]
        padded_sizes = [*rank_sizes, *[0] * (columns - len(rank_sizes))]
        columns_of_ranks.append(torch.split(vectors, padded_sizes))
    return [torch.cat(column) for column in zip(*columns_of_ranks, strict=True)]
