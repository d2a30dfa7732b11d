"""What the ranks of a training exchange: vectors that a loss or a search compares, decisions."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from torch import Tensor

T = TypeVar("T")


def rank_of_all() -> tuple[int, int]:
    """Return this rank and the number of ranks, (0, 1) outside a training of several ranks."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def value_of_first_rank(value: T) -> T:
    """Return the first rank's value on all ranks, once it has come to this call."""
    if rank_of_all()[1] == 1:
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def leave_the_ranks() -> None:
    """End the connection to the other ranks, if there is one.

    Lightning leaves this to the end of the process, where a thread of gloo that is still running
    may abort it.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


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


def encoded_by_all_ranks(
    encode: Callable[[Sequence[str]], npt.NDArray[np.float32]],
    texts: Sequence[str],
    device: torch.device,
) -> npt.NDArray[np.float32]:
    """Return the vectors of texts, of which each rank encodes a share.

    Outside the ranks of a training, this process encodes all texts.

    Args:
        encode: Returns the vectors [texts, dimensions] of texts.
        texts: The texts, the same on all ranks.
        device: The device of this rank, by which the ranks exchange the vectors.
    """
    rank, ranks = rank_of_all()
    if ranks == 1:
        return encode(texts)

    shares = np.array_split(np.arange(len(texts)), ranks)
    share_vectors = encode([texts[row] for row in shares[rank]])

    # Every rank gets the same vectors, to the last bit: what is mined by them must not differ.
    tensor = torch.from_numpy(share_vectors).to(device)
    sizes = [[len(share)] for share in shares]
    (vectors,) = vectors_of_all_ranks([tensor], sizes, rank)
    return vectors.cpu().numpy()
