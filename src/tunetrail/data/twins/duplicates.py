"""Duplicates: finds the rows of a session that are equal, nearly equal, twins or contradictions. Drops no row.

The key of a cluster of twins follows from content alone, so a row's side of a split can follow from it. Knows nothing
of sides. Works on the sketches of any number of chunks; what it keeps of them lies in files.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data.twins.growing_arrays import GrowingArray
from tunetrail.data.twins.near_duplicates import ComparedRows, representatives
from tunetrail.data.twins.near_pairs import Mask, Pairs, components, connecting_pairs
from tunetrail.data.twins.shingles import Integers, combined
from tunetrail.data.twins.shingles import normalized as normalized
from tunetrail.data.twins.sketches import KINDS, RowSketches, sketch_rows
from tunetrail.data.twins.text_index import TextIndex

_ROWS_AT_ONCE = 10_000
_NUMBERS_OF_TEXTS = (
    "row_text",
    "whole_text",
    "link_text",
    "mask_text",
    *(f"{kind}.text" for kind in KINDS),
)


def cluster_keys(rows: pd.DataFrame, similarity: float) -> list[str]:
    """Return a key (64 hex digits) for each row; rows with the same key are one cluster of twins.

    See `SketchBook.clusters` for what connects rows. A cluster takes the key of its oldest row (the smallest `row_id`):
    the hash of its group or else of its normalised text. So a cluster that newer rows join keeps its key.

    Args:
        rows: Rows with RangeIndex.
        similarity: Between 0 and 1; 0 turns near-duplicates off.
    """
    with tempfile.TemporaryDirectory() as folder:
        book = SketchBook(Path(folder))
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            book.add(sketch_rows(rows.iloc[start : start + _ROWS_AT_ONCE]))
        return book.cluster_keys(similarity)


class SketchBook:
    """The sketches of a whole session, and what follows from them.

    Rows are numbered in the order in which they were added. Results depend neither on that order nor on the chunks: of
    equal rows the one with the smallest `row_id` counts as the oldest. Where a method takes `included`, a mask of rows,
    the others count as absent.
    """

    def __init__(self, folder: Path) -> None:
        """Begin an empty book that keeps its files in `folder`, which has to exist and belongs to it alone."""
        self._folder = folder
        self._index: TextIndex | None = None
        empty = pd.DataFrame({"row_id": pd.Series(dtype="int64"), "shape": [], "group": []})
        self._arrays = {
            name: GrowingArray(
                folder / f"{name}.bin", values.dtype, values.shape[1] if values.ndim == 2 else 0
            )
            for name, values in sketch_rows(empty).arrays()
        }

    def __len__(self) -> int:
        return len(self._arrays["row_id"])

    def add(self, sketches: RowSketches) -> None:
        """Add the rows of one chunk."""
        rows, texts = len(self), len(self._arrays["text_key"])
        for name, values in sketches.arrays():
            if name in _NUMBERS_OF_TEXTS:
                values = np.where(values < 0, values, values + texts)
            self._arrays[name].append(values + rows if name == "link_row" else values)
        self._index = None

    @property
    def row_ids(self) -> Integers:
        """The `row_id` of each row."""
        return self._array("row_id")

    def exact_duplicates(self, included: Mask | None = None) -> Integers:
        """Return, for each row, the oldest row of equal shape and content, -1 where that is the row itself."""
        rows = self._rows(included)
        keys = self._array("row_key")[rows]
        order = np.lexsort((self.row_ids[rows], keys[:, 1], keys[:, 0]))
        found = np.full(len(self), -1, dtype=np.int64)
        found[rows[order]] = rows[order][_first_of_run(keys[order])]
        found[found == np.arange(len(self))] = -1
        return found

    def contradictions(self, included: Mask | None = None) -> Mask:
        """Return which rows ask what another row asks and answer it otherwise.

        A label contradicts another one of the same text, a score that of the same two sentences in either order, an
        output that of the same input, an assistant's last turn that after the same turns, a vector that of the same
        text, a preference the opposite one. Texts are compared normalised. An anchor may have several positives, and a
        prompt several preferred answers.
        """
        rows = self._rows(included)
        rows = rows[self._array("input_key")[rows] != 0]
        asked, answered = self._array("input_key")[rows], self._array("target_key")[rows]
        order = np.lexsort((answered, asked))
        first = _first_of_run(asked[order, None])
        differs = answered[order] != answered[order][first]
        found = np.zeros(len(self), dtype=bool)
        found[rows[order]] = np.bincount(first, differs, minlength=len(order))[first] > 0
        return found

    def cluster_keys(self, similarity: float, included: Mask | None = None) -> list[str]:
        """Return the key of each row's cluster, 64 hex digits; an empty text for a row that isn't included."""
        keys = np.array(self._array("own_key"))
        return [
            keys[row].tobytes().hex() if row >= 0 else ""
            for row in self.clusters(similarity, included)
        ]

    def clusters(self, similarity: float, included: Mask | None = None) -> Integers:
        """Return the oldest row of each row's cluster of twins, -1 for a row that isn't included.

        Rows are connected by an equal normalised text, by an equal group and, unless `similarity` is 0, by similar
        texts: by a Jaccard index of at least `similarity` (over word 3-shingles of long and character 5-shingles of
        short texts), or by all words but one of 7 to 64 (the ten oldest texts that differ in one place). A cluster is a
        connected component. Texts are anchors and positives, both sentences of a score, `text`, `input`, `prompt`, and
        the turns of a conversation but for the system's, which all rows may share. Labels, scores, negatives, outputs
        and the answers of a preference connect nothing.
        """
        index, rows = self._text_index(), self._rows(included)
        is_in = np.zeros(len(self), dtype=bool)
        is_in[rows] = True
        used = is_in[self._array("link_row")]
        link_row = self._array("link_row")[used]
        link_text = index.number_of[self._array("link_text")[used]] + len(self)
        groups = self._array("group_key")
        grouped = np.flatnonzero(is_in & (groups != 0))
        group = np.unique(groups[grouped], return_inverse=True)[1] + len(self) + index.size
        size = len(self) + index.size + len(grouped)
        edges = [(link_row, link_text), (grouped, group)]
        if similarity > 0.0:
            edges += self._similar_texts(index, edges, size, similarity)
        labels = _components(edges, size)[rows]
        found = np.full(len(self), -1, dtype=np.int64)
        by_age = np.lexsort((self.row_ids[rows], labels))
        found[rows[by_age]] = rows[by_age][_first_of_run(labels[by_age, None])]
        return found

    def _similar_texts(
        self, index: TextIndex, edges: Sequence[Pairs], size: int, similarity: float
    ) -> list[Pairs]:
        """Return what connects nodes besides `edges`; the nodes of texts stand behind those of rows."""
        rows = len(self)
        is_linked = np.zeros(index.size, dtype=bool)
        is_linked[edges[0][1] - rows] = True
        found = [(first + rows, second + rows) for first, second in index.one_word_pairs(is_linked)]
        index.allow_comparisons(int(is_linked.sum()))
        for kind, stored in index.stored.items():
            texts = np.flatnonzero(is_linked & (index.entry_of[kind] >= 0))
            labels = _components([*edges, *found], size)[texts + rows]
            first, second = connecting_pairs(
                stored, index.entry_of[kind][texts], labels, similarity
            )
            found.append((texts[first] + rows, texts[second] + rows))
        return found

    def near_duplicates(self, similarity: float, included: Mask | None = None) -> Integers:
        """Return, for each row, the older row that makes it dispensable, -1 for a row that stays.

        A row is dispensable if an older one that stays itself is equal in shape, label, score, vector, system turns and
        roles, and has similar texts: each text and all of them together have a Jaccard index of at least `similarity`.
        Exact duplicates are not among the rows found; the oldest of them stands for all. Similarity 0 finds none.
        """
        index, rows = self._text_index(), self._rows(included)
        if similarity == 0.0:
            return np.full(len(self), -1, dtype=np.int64)
        rows = rows[self.exact_duplicates(included)[rows] < 0]
        rows = rows[np.argsort(self.row_ids[rows], kind="stable")]
        row_text = self._array("row_text")[rows]
        texts = np.where(row_text < 0, -1, index.number_of[row_text]).astype(np.int64)
        match = self._array("match_key")[rows]
        # of rows that are equal once normalised, the oldest stands for the others
        alike = combined(np.column_stack((match, texts.astype(np.uint64))))
        _, first, same_as = np.unique(alike, return_index=True, return_inverse=True)
        oldest, rank = np.unique(first[same_as], return_inverse=True)
        whole = index.number_of[self._array("whole_text")[rows[oldest]]].astype(np.int64)
        compared = ComparedRows(match_key=match[oldest], texts=texts[oldest], whole=whole)
        stands_for = representatives(compared, index, similarity)
        found = np.full(len(self), -1, dtype=np.int64)
        found[rows] = rows[oldest[stands_for[rank]]]
        found[found == np.arange(len(self))] = -1
        return found

    def _rows(self, included: Mask | None) -> Integers:
        return np.arange(len(self)) if included is None else np.flatnonzero(included)

    def _array(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name].array()

    def _text_index(self) -> TextIndex:
        if self._index is None:
            self._index = TextIndex({name: array.array() for name, array in self._arrays.items()})
        return self._index


def _components(edges: Sequence[Pairs], size: int) -> Integers:
    first, second = (np.concatenate(side) for side in zip(*edges, strict=True))
    return components(first, second, size)


def _first_of_run(values: npt.NDArray[Any]) -> Integers:
    """Return, for each of sorted rows of values, the position of the first that is equal to it."""
    is_first = np.ones(len(values), dtype=bool)
    is_first[1:] = (values[1:] != values[:-1]).any(axis=1)
    return np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))
