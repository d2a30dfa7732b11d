"""Check round trips: whether a text written about another text leads back to it.

Round-trip consistency as in Dai et al., "Promptagator" (2022): a generated query is used only if a
retriever finds the passage that it was written for.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data.augmentation.drafts import Draft

# Similarities computed at once: 80 MB of float32, whatever the number of rows.
_SIMILARITIES_AT_ONCE = 20_000_000


def with_round_trip(
    drafts: Sequence[Draft],
    reasons: Sequence[str | None],
    rows: pd.DataFrame,
    sources: Sequence[str | None],
    vectors: Callable[[Sequence[str]], npt.NDArray[np.float32]],
    deepest: int,
) -> list[str | None]:
    """Return the reasons, and a new one for each draft that doesn't find its own source.

    Args:
        drafts: Drafts of one method.
        reasons: Why a draft is rejected already; only the other drafts are checked.
        rows: The rows that the drafts were made from; sources of one `cluster` don't compete.
        sources: The text of each row that a draft may be made from, None if there is none.
        vectors: From texts to their unit vectors, [texts, dimensions].
        deepest: The last rank at which the source counts as found.
    """
    checked = [index for index, reason in enumerate(reasons) if reason is None]
    if not checked:
        return list(reasons)

    # Equal sources are ranked as one, so that a text doesn't compete with its own copies.
    distinct_sources = list(dict.fromkeys(filter(None, sources)))
    index_of_source = {text: index for index, text in enumerate(distinct_sources)}

    # Twins of a source answer the query as well as the source does.
    clusters = list(rows["cluster"]) if "cluster" in rows else list(rows.index)
    sources_of_cluster: dict[Any, set[int]] = defaultdict(set)
    for cluster, source in zip(clusters, sources, strict=True):
        if source is not None:
            sources_of_cluster[cluster].add(index_of_source[source])

    checked_drafts = [drafts[index] for index in checked]
    ranks = own_ranks(
        vectors([draft.text for draft in checked_drafts]),
        vectors(distinct_sources),
        own=[index_of_source[draft.source] for draft in checked_drafts],
        allowed=[sources_of_cluster[clusters[draft.position]] for draft in checked_drafts],
    )

    extended = list(reasons)
    for index, rank in zip(checked, ranks, strict=True):
        if rank > deepest:
            extended[index] = (
                f"not found again: its own text came at place {rank} of {len(distinct_sources)}, "
                f"augmentation.round_trip_rank is {deepest}"
            )
    return extended


def own_ranks(
    written: npt.NDArray[np.float32],
    sources: npt.NDArray[np.float32],
    own: Sequence[int],
    allowed: Sequence[Collection[int]],
) -> npt.NDArray[np.int64]:
    """Return the rank of each written text's own source by cosine similarity; 1 is the nearest.

    A source that is exactly as near as the text's own source counts as nearer: a tie proves
    nothing.

    Args:
        written: Unit vectors of the written texts, [texts, dimensions].
        sources: Unit vectors of all sources, [sources, dimensions].
        own: The source of each written text.
        allowed: For each written text, the sources that are as good as its own and don't count.
    """
    ranks = np.ones(len(written), dtype=np.int64)
    block_size = max(1, _SIMILARITIES_AT_ONCE // max(1, len(sources)))

    for start in range(0, len(written), block_size):
        similarities: npt.NDArray[Any] = written[start : start + block_size] @ sources.T
        for index, similarity in enumerate(similarities, start=start):
            # "Not below" instead of "at or above", so that NaN never counts as a success.
            is_nearer = ~(similarity < similarity[own[index]])
            is_nearer[[own[index], *allowed[index]]] = False
            ranks[index] += is_nearer.sum()
    return ranks
