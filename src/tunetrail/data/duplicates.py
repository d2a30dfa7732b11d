"""Duplicates: finds the rows that are twins of one another and gives each set of twins one key. Drops no row.

The key follows from content alone, so a row's side of a split can follow from it. Knows nothing of sides.
"""

import functools
import hashlib
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import rensa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tunetrail.data.rows import content_columns
from tunetrail.samples import GROUP_COLUMN

_TWIN_COLUMNS = {
    "pair": ("anchor", "positive"),
    "score": ("sentence1", "sentence2"),
    "completion": ("input",),
}
"""Columns whose texts connect rows, by shape; `text` where a shape isn't named. The first one names the row."""
_PERMUTATIONS = 128
_SCREENED = 64
_SEED = 42
_WANTED_RECALL = 0.98
_LONG_FROM_WORDS = 16
_SHORT_UP_TO_WORDS = 32
_PAIRS_AT_ONCE = 1 << 16

_Integers = npt.NDArray[np.int64]


def cluster_keys(rows: pd.DataFrame, similarity: float) -> list[str]:
    """Return a key (64 hex digits) for each row; rows with the same key are one cluster of twins.

    Rows are connected by an equal normalised text, by texts whose estimated Jaccard similarity reaches `similarity`
    (MinHash with 128 permutations, Broder 1997, over word 3-shingles of long and character 5-shingles of short texts),
    and by an equal group; a cluster is a connected component. Texts are anchors and positives, both sentences of a
    score, `text`, `input`, and the turns of a conversation but for the system's, which all rows may share. Labels,
    scores, negatives and outputs connect nothing.

    A cluster takes the key of its oldest row (the smallest `row_id`): the hash of its group or else of its normalised
    text. So a cluster that newer rows join keeps its key.

    Args:
        rows: Rows with RangeIndex.
        similarity: Between 0 and 1; 0 turns near-duplicates off.
    """
    if rows.empty:
        return []
    texts = [[normalized(text) for text in row_texts] for row_texts in _twin_texts(rows)]
    number_of = {text: number for number, text in enumerate(dict.fromkeys(text for row in texts for text in row))}
    groups = list(rows[GROUP_COLUMN])
    group_number = {group: number for number, group in enumerate(dict.fromkeys(groups), start=len(number_of))}
    edges = [(row, number_of[text] + len(rows)) for row, row_texts in enumerate(texts) for text in row_texts]
    edges += [(row, group_number[group] + len(rows)) for row, group in enumerate(groups) if group is not None]
    near = _near_duplicates(list(number_of), similarity) if similarity > 0.0 else []
    edges += [(first + len(rows), second + len(rows)) for first, second in near]
    labels = _components(edges, len(rows) + len(number_of) + len(group_number))[: len(rows)]
    own_keys = [_own_key(group, row_texts) for group, row_texts in zip(groups, texts, strict=True)]
    return _oldest_keys(labels, own_keys, rows["row_id"].to_numpy())


def normalized(text: str) -> str:
    """Return the text casefolded, without punctuation, its white space folded.

    A text of nothing but punctuation keeps it: `{}` and `...` are not the same.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(_punctuation()).split()) or " ".join(folded.split())


@functools.cache
def _punctuation() -> Mapping[int, None]:
    codes = range(sys.maxunicode + 1)
    return dict.fromkeys(code for code in codes if unicodedata.category(chr(code)).startswith("P"))


def _twin_texts(rows: pd.DataFrame) -> list[list[str]]:
    """Return the texts of each row that connect it to others; the first one names the row."""
    wanted = rows[["shape", *content_columns(rows)]]
    return [_twin_texts_of(record) for record in wanted.to_dict("records")]


def _twin_texts_of(record: Mapping[str, Any]) -> list[str]:
    if record["shape"] == "chat":
        turns = [turn for turn in record["messages"] if turn["role"] != "system"]
        # a log that is ingested again and again holds the same conversation at several lengths: its opening stays
        opening = [turn["content"] for turn in turns if turn["role"] == "user"][:1]
        return [*opening, "\n".join(turn["content"] for turn in turns)]
    return [record[column] for column in _TWIN_COLUMNS.get(record["shape"], ("text",))]


def _own_key(group: str | None, texts: Sequence[str]) -> str:
    text = f"text:{texts[0]}" if group is None else f"group:{group}"
    return hashlib.sha256(text.encode()).hexdigest()


def _oldest_keys(labels: _Integers, own_keys: Sequence[str], row_ids: _Integers) -> list[str]:
    key_of: dict[int, str] = {}
    for row in np.argsort(row_ids, kind="stable"):
        key_of.setdefault(int(labels[row]), own_keys[row])
    return [key_of[int(label)] for label in labels]


def _components(edges: Iterable[tuple[int, int]], size: int) -> _Integers:
    pairs = np.array(list(edges), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size))
    labels: _Integers = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def _near_duplicates(texts: Sequence[str], similarity: float) -> list[tuple[int, int]]:
    """Return pairs of positions of similar texts, enough of them to connect every two that are similar."""
    words = np.array([text.count(" ") + 1 for text in texts])
    # The two kinds overlap by a factor of two, so that a pair of similar texts is always compared in one of them.
    kinds: tuple[tuple[_Integers, Callable[[str], list[str]]], ...] = (
        (np.flatnonzero(words <= _SHORT_UP_TO_WORDS), _character_shingles),
        (np.flatnonzero(words >= _LONG_FROM_WORDS), _word_shingles),
    )
    found: list[tuple[int, int]] = []
    for positions, shingles in kinds:
        if len(positions) > 1:
            sketches = _sketches([shingles(texts[position]) for position in positions])
            found += [(int(positions[a]), int(positions[b])) for a, b in _similar_pairs(sketches, similarity)]
    return found


def _character_shingles(text: str) -> list[str]:
    return list({text[start : start + 5] for start in range(max(1, len(text) - 4))})


def _word_shingles(text: str) -> list[str]:
    words = text.split(" ")
    return list({" ".join(words[start : start + 3]) for start in range(max(1, len(words) - 2))})


def _sketches(shingle_sets: list[list[str]]) -> npt.NDArray[np.uint32]:
    """Return MinHash signatures, [texts, permutations]."""
    return np.asarray(rensa.RMinHash.digests_from_token_sets(shingle_sets, _PERMUTATIONS, _SEED), dtype=np.uint32)


def _rows_per_band(similarity: float) -> int:
    """Return the widest band that still finds nearly every pair at the threshold: recall 1 - (1 - s^r)^(p/r)."""
    for width in range(32, 1, -1):
        if 1.0 - (1.0 - similarity**width) ** (_PERMUTATIONS // width) >= _WANTED_RECALL:
            return width
    return 1


def _similar_pairs(sketches: npt.NDArray[np.uint32], similarity: float) -> list[tuple[int, int]]:
    width = _rows_per_band(similarity)
    screen = np.ascontiguousarray(sketches[:, :_SCREENED].astype(np.uint8))
    edges: list[tuple[int, int]] = []
    labels = np.arange(len(sketches))
    for start in range(0, _PERMUTATIONS - width + 1, width):
        for lag, first, second in _band_pairs(sketches[:, start : start + width], labels):
            # What is connected already needs no second proof; that keeps large sets of twins from costing their square.
            new = labels[first] != labels[second]
            edges += _verified(sketches, screen, first[new], second[new], similarity)
            if lag & (lag - 1) == 0 and new.any():
                labels = _components(edges, len(sketches))
        labels = _components(edges, len(sketches))
    return edges


def _band_pairs(band: npt.NDArray[np.uint32], labels: _Integers) -> Iterator[tuple[int, _Integers, _Integers]]:
    """Yield (lag, first, second): all pairs of rows with an equal band, each pair once, `lag` apart in sorted order.

    Buckets of rows that all have one label are left out.
    """
    whole = np.ascontiguousarray(band).view(f"V{band.itemsize * band.shape[1]}").ravel()
    _, bucket, sizes = np.unique(whole, return_inverse=True, return_counts=True)
    order = np.lexsort((labels, bucket))
    bucket, ends = bucket[order], np.cumsum(sizes)
    mixed = labels[order[ends - 1]] != labels[order[ends - sizes]]
    places, lag = np.flatnonzero(mixed[bucket]), 1
    while True:
        places = places[places + lag < len(order)]
        places = places[bucket[places] == bucket[places + lag]]
        if len(places) == 0:
            return
        yield lag, order[places], order[places + lag]
        lag += 1


def _verified(
    sketches: npt.NDArray[np.uint32],
    screen: npt.NDArray[np.uint8],
    first: _Integers,
    second: _Integers,
    similarity: float,
) -> list[tuple[int, int]]:
    """Return the pairs of which the signatures are similar; a cheap look at half of each comes first."""
    # Four standard deviations below what a pair at the threshold has.
    enough = _SCREENED * similarity - 4.0 * (_SCREENED * similarity * (1.0 - similarity)) ** 0.5
    edges: list[tuple[int, int]] = []
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        a, b = first[start : start + _PAIRS_AT_ONCE], second[start : start + _PAIRS_AT_ONCE]
        equal = np.packbits(screen[a] == screen[b], axis=1).view(np.uint64)
        likely = np.bitwise_count(equal).sum(axis=1) >= enough
        a, b = a[likely], b[likely]
        similar = np.count_nonzero(sketches[a] == sketches[b], axis=1) >= similarity * _PERMUTATIONS
        edges += zip(a[similar].tolist(), b[similar].tolist(), strict=True)
    return edges
