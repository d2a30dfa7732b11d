"""Finds the rows of a session that are equal, nearly equal, twins or contradictions. Drops no row.

The key of a cluster of twins follows from content alone, so that a row's side of a split can follow
from it. Works on the sketches of any number of chunks and stores them in files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.data.twins.boilerplate import Boilerplate, find_boilerplate
from tunetrail.data.twins.differences import say_something_else
from tunetrail.data.twins.growing_arrays import GrowingArray
from tunetrail.data.twins.near_duplicates import ComparedRows, representatives
from tunetrail.data.twins.near_pairs import Mask, Pairs, components, connecting_pairs, join_pairs
from tunetrail.data.twins.shingles import Integers, combined
from tunetrail.data.twins.shingles import normalized as normalized
from tunetrail.data.twins.sketches import KINDS, RowSketches
from tunetrail.data.twins.sketching import sketch_rows
from tunetrail.data.twins.text_index import TextIndex
from tunetrail.paths import made_folder
from tunetrail.scratch import scratch_folder

# Bounds the memory of sketching: shingles take many times as much as the texts.
_ROWS_AT_ONCE = 10_000
_SKETCHED_TEXTS = tuple(f"{kind}.text" for kind in KINDS)
# Arrays that hold indices of a chunk's texts.
_TEXT_INDICES = ("row_text", "whole_text", "link_text", "mask_text", *_SKETCHED_TEXTS)


def cluster_keys(rows: pd.DataFrame, similarity: float) -> list[str]:
    """Return a key (64 hex digits) for each row; rows with the same key are one cluster of twins.

    `SketchBook.clusters` says what connects rows. A cluster has the key of its oldest row (the
    smallest `row_id`): the hash of its group, or of its normalised text if it has none. A cluster
    that newer rows join therefore keeps its key.

    Args:
        rows: Rows with RangeIndex.
        similarity: Between 0 and 1; 0 turns near-duplicates off.
    """
    blocks = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        blocks.append(FrameRows(rows.iloc[start : start + _ROWS_AT_ONCE]))
    with scratch_folder() as folder:
        return sketch_book(folder, blocks).cluster_keys(similarity)


class SketchedRows(Protocol):
    """Rows whose sketches were computed before, such as a prepared chunk."""

    def sketches(self) -> RowSketches:
        """Return the sketches of the rows."""

    def rows(self) -> pd.DataFrame:
        """Return the rows themselves."""


@dataclass(frozen=True)
class FrameRows:
    """Rows in memory, as `SketchedRows`."""

    frame: pd.DataFrame

    def sketches(self) -> RowSketches:
        """Return the sketches of the rows, which are computed now."""
        return sketch_rows(self.frame)

    def rows(self) -> pd.DataFrame:
        """Return the rows."""
        return self.frame


def sketch_book(folder: Path, blocks: Sequence[SketchedRows]) -> "SketchBook":
    """Return a book of all rows, which are compared without their boilerplate.

    What is boilerplate follows from all rows together. Only if there is some, the blocks that have
    it are sketched a second time.

    Args:
        folder: An empty folder for the book's files.
        blocks: Blocks of rows.
    """
    book = SketchBook(made_folder(folder / "whole"))
    block_keys = []
    for block in blocks:
        sketches = block.sketches()
        book.add(sketches)
        block_keys.append(sketches.text_key)

    boilerplate = book.boilerplate()
    if boilerplate is None:
        return book
    stripped_book = SketchBook(made_folder(folder / "stripped"))
    for block, keys in zip(blocks, block_keys, strict=True):
        has_boilerplate = any(map(boilerplate.__contains__, keys.tolist()))
        rows = sketch_rows(block.rows(), boilerplate) if has_boilerplate else None
        stripped_book.add(block.sketches() if rows is None else rows)
    return stripped_book


class SketchBook:
    """Holds the sketches of a whole session and finds the rows that are related.

    Rows have the index of the order in which they were added. Results depend neither on that order
    nor on the chunks: of equal rows, the one with the smallest `row_id` counts as the oldest. If a
    method takes `included`, a mask of rows, all other rows count as absent.
    """

    def __init__(self, folder: Path) -> None:
        """Create an empty book with its files in `folder`, which must exist and be its own."""
        self._folder = folder
        self._index: TextIndex | None = None
        # The sketches of no rows tell which arrays there are, with their types and widths.
        empty = pd.DataFrame({"row_id": pd.Series(dtype="int64"), "shape": [], "group": []})
        self._arrays = {}
        for name, values in sketch_rows(empty).arrays():
            width = values.shape[1] if values.ndim == 2 else 0
            self._arrays[name] = GrowingArray(folder / f"{name}.bin", values.dtype, width)

    def __len__(self) -> int:
        return len(self._arrays["row_id"])

    def add(self, sketches: RowSketches) -> None:
        """Add the rows of one chunk."""
        rows, texts = len(self), len(self._arrays["text_key"])
        for name, values in sketches.arrays():
            # A chunk counts its rows and texts from 0; -1 stands for no text.
            if name in _TEXT_INDICES:
                values = np.where(values < 0, values, values + texts)
            elif name == "link_row":
                values = values + rows
            self._arrays[name].append(values)
        # New texts change the numbers of all texts, so the index is built again on its next use.
        self._index = None

    def boilerplate(self) -> Boilerplate | None:
        """Return what many rows share, None if there is nothing."""
        index = self._text_index()
        whole = np.unique(index.number_of[self._array("whole_text")]).astype(np.int64)
        compared = self._array("row_text")
        texts = [self._array("whole_text"), compared[compared >= 0], self._array("link_text")]
        numbers = np.unique(index.number_of[np.concatenate(texts)]).astype(np.int64)
        return find_boilerplate(index.keys, index.words, whole, numbers)

    @property
    def row_ids(self) -> Integers:
        """The `row_id` of each row."""
        return self._array("row_id")

    def exact_duplicates(self, included: Mask | None = None) -> Integers:
        """Return each row's oldest row of equal shape and content, -1 if that is the row itself."""
        rows = self._rows(included)
        keys = self._array("row_key")[rows]
        # Equal keys become neighbours, the oldest row first.
        order = np.lexsort((self.row_ids[rows], keys[:, 1], keys[:, 0]))

        rows, keys = rows[order], keys[order]
        return self._by_row(rows, rows[_first_of_run(keys)], without_itself=True)

    def contradictions(self, included: Mask | None = None) -> Mask:
        """Return a mask of the rows that ask what another row asks and answer it differently.

        Two labels of the same text contradict each other, and so do two scores of the same
        sentences in either order, two outputs of the same input, two last turns of the assistant
        after the same turns, two vectors of the same text, and two opposite preferences. Texts are
        compared normalised. An anchor may have several positives, and a prompt several preferred
        answers.
        """
        rows = self._rows(included)
        # A key of 0 marks rows with a question that may have several right answers.
        rows = rows[self._array("input_key")[rows] != 0]
        inputs, targets = self._array("input_key")[rows], self._array("target_key")[rows]
        order = np.lexsort((targets, inputs))
        rows, inputs, targets = rows[order], inputs[order], targets[order]

        # Targets are sorted within each input: one that differs from the first disputes it.
        first = _first_of_run(inputs[:, None])
        differs = targets != targets[first]
        disputes = np.bincount(first, differs, minlength=len(order))

        contradicts = np.zeros(len(self), dtype=bool)
        contradicts[rows] = disputes[first] > 0
        return contradicts

    def cluster_keys(self, similarity: float, included: Mask | None = None) -> list[str]:
        """Return the key of each row's cluster, 64 hex digits; empty if the row isn't included."""
        keys = np.array(self._array("own_key"))
        cluster_keys = []
        for row in self.clusters(similarity, included):
            cluster_keys.append("" if row < 0 else keys[row].tobytes().hex())
        return cluster_keys

    def clusters(self, similarity: float, included: Mask | None = None) -> Integers:
        """Return the oldest row of each row's cluster of twins, -1 for a row that isn't included.

        Rows are connected by an equal normalised text, by an equal group and, unless `similarity`
        is 0, by similar texts: by a Jaccard index of at least `similarity` (over word 3-shingles of
        long and character 5-shingles of short texts), or by 7 to 64 words of which all except one
        are equal (the ten oldest texts that differ in one place). A cluster is a connected
        component. The texts are anchors and positives, both sentences of a score, `text`, `input`,
        `prompt`, and the turns of a conversation except the system's, which all rows may share.
        Labels, scores, negatives, outputs and the answers of a preference connect nothing.
        """
        index, rows = self._text_index(), self._rows(included)
        is_included = np.zeros(len(self), dtype=bool)
        is_included[rows] = True

        # The nodes of the graph are the rows, then the distinct texts, then the groups.
        is_used = is_included[self._array("link_row")]
        link_row = self._array("link_row")[is_used]
        link_text = index.number_of[self._array("link_text")[is_used]] + len(self)
        group_keys = self._array("group_key")
        grouped = np.flatnonzero(is_included & (group_keys != 0))
        group = np.unique(group_keys[grouped], return_inverse=True)[1] + len(self) + index.size
        size = len(self) + index.size + len(grouped)

        edges = [(link_row, link_text), (grouped, group)]
        if similarity > 0.0:
            edges += self._similar_texts(index, edges, size, similarity)
        labels = components(*join_pairs(edges), size)[rows]

        # The oldest row stands for its cluster, so newer rows don't change the cluster's key.
        by_age = np.lexsort((self.row_ids[rows], labels))
        rows, labels = rows[by_age], labels[by_age]
        return self._by_row(rows, rows[_first_of_run(labels[:, None])])

    def _similar_texts(
        self, index: TextIndex, edges: Sequence[Pairs], size: int, similarity: float
    ) -> list[Pairs]:
        """Return edges between similar texts; `edges` lead from rows to texts and groups."""
        rows = len(self)
        is_linked = np.zeros(index.size, dtype=bool)
        is_linked[edges[0][1] - rows] = True
        index.allow_comparisons(int(is_linked.sum()))

        similar: list[Pairs] = []
        for first, second in index.one_word_pairs(is_linked):
            similar.append((first + rows, second + rows))
        for kind, sketches in index.stored.items():
            texts = np.flatnonzero(is_linked & (index.entry_of[kind] >= 0))
            # Texts that are connected already, even by an earlier kind, aren't compared again.
            labels = components(*join_pairs([*edges, *similar]), size)[texts + rows]
            entries = index.entry_of[kind][texts]
            first, second = connecting_pairs(sketches, entries, labels, similarity)
            similar.append((texts[first] + rows, texts[second] + rows))
        return similar

    def near_duplicates(self, similarity: float, included: Mask | None = None) -> Integers:
        """Return the older row that makes each row dispensable, -1 for a row that stays.

        A row is dispensable if an older row stays that says the same:

        - its shape, label, score, vector, system turns and roles are equal;
        - its texts are similar: each of them, and all of them together, have a Jaccard index of at
          least `similarity`;
        - its numbers are equal, and the words that differ don't `say_something_else`.

        Exact duplicates are left to `exact_duplicates`; the oldest of them stands for all. With a
        similarity of 0 every row stays.
        """
        index, rows = self._text_index(), self._rows(included)
        if similarity == 0.0:
            return np.full(len(self), -1, dtype=np.int64)

        rows = rows[self.exact_duplicates(included)[rows] < 0]
        rows = rows[np.argsort(self.row_ids[rows], kind="stable")]
        # An absent text stays -1, which as an index would be the last text.
        row_text = self._array("row_text")[rows]
        texts = np.where(row_text < 0, -1, index.number_of[row_text]).astype(np.int64)
        match = self._array("match_key")[rows]

        # Of rows that are equal once normalised, the oldest stands for the others.
        content_keys = combined(np.column_stack((match, texts.astype(np.uint64))))
        _, first, same_as = np.unique(content_keys, return_index=True, return_inverse=True)
        oldest, rank = np.unique(first[same_as], return_inverse=True)

        whole = index.number_of[self._array("whole_text")[rows[oldest]]].astype(np.int64)
        compared = ComparedRows(match_key=match[oldest], texts=texts[oldest], whole=whole)
        stands_for = representatives(compared, index, similarity)

        # Which words differ is looked at last: only rows that would go need it.
        newer = np.flatnonzero(stands_for != np.arange(len(stands_for)))
        older = stands_for[newer]
        stays = say_something_else(index.words, compared.texts[older], compared.texts[newer])
        stands_for[newer[stays]] = newer[stays]
        return self._by_row(rows, rows[oldest[stands_for[rank]]], without_itself=True)

    def _by_row(
        self, rows: Integers, related: Integers, *, without_itself: bool = False
    ) -> Integers:
        """Return the related row of all rows, -1 for rows that have none."""
        related_rows = np.full(len(self), -1, dtype=np.int64)
        related_rows[rows] = related
        if without_itself:
            related_rows[related_rows == np.arange(len(self))] = -1
        return related_rows

    def _rows(self, included: Mask | None) -> Integers:
        return np.arange(len(self)) if included is None else np.flatnonzero(included)

    def _array(self, name: str) -> npt.NDArray[Any]:
        return self._arrays[name].array()

    def _text_index(self) -> TextIndex:
        if self._index is None:
            self._index = TextIndex({name: array.array() for name, array in self._arrays.items()})
        return self._index


def _first_of_run(values: npt.NDArray[Any]) -> Integers:
    """Return the position of the first equal row of each row; equal rows are neighbours."""
    is_first = np.ones(len(values), dtype=bool)
    is_first[1:] = (values[1:] != values[:-1]).any(axis=1)
    return np.maximum.accumulate(np.where(is_first, np.arange(len(values)), 0))
