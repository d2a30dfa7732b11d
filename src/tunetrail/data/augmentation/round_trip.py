"""Round trips: whether what was written about a text leads back to it. Knows vectors and texts, but no model.

Round-trip consistency as in Dai et al., "Promptagator" (2022): a generated query is kept only where a retriever finds
the passage that it was written for.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data.augmentation.drafts import Draft

_CELLS_AT_ONCE = 20_000_000


def with_round_trip(
    drafts: Sequence[Draft],
    reasons: Sequence[str | None],
    rows: pd.DataFrame,
    sources: Sequence[str | None],
    vectors: Callable[[Sequence[str]], npt.NDArray[np.float32]],
    deepest: int,
) -> list[str | None]:
    """Return the reasons, with one more for each draft that doesn't find its own source among the first `deepest`.

    Args:
        drafts: What was made.
        reasons: Why a draft is rejected already; those aren't looked at.
        rows: The rows that it was made from; the sources of one `cluster` don't compete with one another.
        sources: The text of each row that a draft may be made from, None where there is none.
        vectors: From texts to their unit vectors, [texts, dimensions].
        deepest: The last place that is good enough.
    """
    checked = [number for number, reason in enumerate(reasons) if reason is None]
    if not checked:
        return list(reasons)
    number_of = {
        text: number for number, text in enumerate(dict.fromkeys(text for text in sources if text))
    }
    clusters = list(rows["cluster"]) if "cluster" in rows else list(rows.index)
    of_cluster: dict[Any, set[int]] = defaultdict(set)
    for cluster, text in zip(clusters, sources, strict=True):
        if text is not None:
            of_cluster[cluster].add(number_of[text])
    ranks = own_ranks(
        vectors([drafts[number].text for number in checked]),
        vectors(list(number_of)),
        own=[number_of[drafts[number].source] for number in checked],
        allowed=[of_cluster[clusters[drafts[number].position]] for number in checked],
    )
    found = list(reasons)
    for number, rank in zip(checked, ranks, strict=True):
        if rank > deepest:
            found[number] = (
                f"not found again: its own text came at place {rank} of {len(number_of)}, "
                f"augmentation.round_trip_rank is {deepest}"
            )
    return found


def own_ranks(
    written: npt.NDArray[np.float32],
    sources: npt.NDArray[np.float32],
    own: Sequence[int],
    allowed: Sequence[Collection[int]],
) -> npt.NDArray[np.int64]:
    """Return at which place each written text finds its own source, by cosine similarity; 1 is the first.

    A source that is exactly as near as the own one counts as nearer: it proves nothing.

    Args:
        written: Unit vectors of the written texts, [texts, dimensions].
        sources: Unit vectors of all sources, [sources, dimensions].
        own: The source of each written text.
        allowed: Per written text the sources that are as good as its own, and don't count.
    """
    ranks = np.ones(len(written), dtype=np.int64)
    height = max(1, _CELLS_AT_ONCE // max(1, len(sources)))
    for start in range(0, len(written), height):
        numbers = range(start, min(start + height, len(written)))
        similarities: npt.NDArray[Any] = written[start : start + height] @ sources.T
        for similarity, number in zip(similarities, numbers, strict=True):
            nearer = ~(
                similarity < similarity[own[number]]
            )  # turned round, so that NaN is no success
            nearer[[own[number], *allowed[number]]] = False
            ranks[number] += nearer.sum()
    return ranks
