"""What the checks of a whole session find in the facts and the texts of its chunks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tunetrail.cache import ResultCache
from tunetrail.data.checks.catalog import is_active
from tunetrail.data.checks.row_vectors import TextEncoder, sample_positions, texts_to_encode
from tunetrail.data.checks.session_checks import (
    SessionFacts,
    SessionFindings,
    check_facts,
)
from tunetrail.data.checks.validation import check_rows
from tunetrail.data.cleaning import clean_rows
from tunetrail.data.flow.chunk_steps import ChunkCounts, ChunkSteps, PreparedChunk
from tunetrail.data.twins.duplicates import SketchBook
from tunetrail.imports import importing
from tunetrail.samples import shape_named

_DRIFT_CHECKS = ("drift.length", "drift.vocabulary", "drift.embedding")


def read_facts(chunks: Sequence[PreparedChunk]) -> SessionFacts:
    """Return the facts of all rows, in the order of the chunks."""
    content: set[str] = set()
    for shape_name in ChunkCounts.total(chunks).shapes:
        content.update(shape_named(shape_name).columns)
    # Only what the checks need: the texts of a session may be larger than memory.
    columns = ["row_id", "language", "timestamp", *sorted({"score", "label"} & content)]
    table = pa.concat_tables([_read_columns(chunk, columns) for chunk in chunks])

    def values(name: str) -> list[Any]:
        # Through a dictionary, so that equal texts are one object: there may be millions.
        return list(table.column(name).dictionary_encode().to_pylist())

    # Chunk by chunk: only the sizes of the vectors are kept.
    dimensions = None
    if "embedding" in content:
        sizes = []
        for chunk in chunks:
            vectors = _read_columns(chunk, ["embedding"]).column("embedding")
            sizes.append(pc.list_value_length(vectors).to_numpy())
        dimensions = np.concatenate(sizes)

    return SessionFacts(
        row_ids=table.column("row_id").to_numpy(),
        languages=values("language"),
        timestamps=values("timestamp"),
        scores=table.column("score").to_numpy() if "score" in content else None,
        labels=values("label") if "label" in content else None,
        dimensions=dimensions,
    )


@dataclass(frozen=True, kw_only=True)
class SessionChecks:
    """The checks of a whole session, and what they work with.

    Attributes:
        chunks: The session's chunks.
        steps: Which checks are on, and the cleaning that the previous session's rows get as well.
        encoder: Makes vectors of texts; without it, the checks that need vectors are left out.
        reference: Rows of the previous session; None if there is none.
        cache: Keeps the vectors.
        seed: For every random choice.
    """

    chunks: Sequence[PreparedChunk]
    steps: ChunkSteps
    encoder: TextEncoder | None
    reference: pd.DataFrame | None
    cache: ResultCache
    seed: int

    def run(
        self, facts: SessionFacts, sketches: SketchBook, clusters: Sequence[str]
    ) -> SessionFindings:
        """Return what all checks find.

        Args:
            facts: The facts of all rows.
            sketches: Their sketches.
            clusters: The cluster of twins of each row.
        """
        config = self.steps.validation
        findings = check_facts(facts, config)
        self._compare_rows(facts.row_ids.tolist(), sketches, findings)

        # Everything else looks at the texts of a sample of rows.
        positions = sample_positions(facts.row_ids, config.judged_rows)
        reference = self._cleaned_reference()
        if not len(positions) or (self.encoder is None and reference is None):
            return findings
        # Only now: a session that is in the cache needs none of the libraries that they import.
        with importing():
            from tunetrail.data.checks.vector_checks import check_vectors, measure_drift

        rows = self._rows_at(positions)
        rows["cluster"] = [clusters[position] for position in positions]

        compares_vectors = reference is not None and is_active("drift.embedding", config)
        checks_rows = is_active("rows.outlier", config) or is_active("labels.mislabelled", config)
        # Vectors are the slowest part, so they are computed only if an active check needs them.
        vectors = reference_vectors = None
        if self.encoder is not None and (checks_rows or compares_vectors):
            vectors = self.encoder.cached_vectors(texts_to_encode(rows), self.cache)
            findings.join(check_vectors(rows, vectors, config, self.seed))

        if reference is not None and len(reference):
            if self.encoder is not None and compares_vectors:
                reference_vectors = self._vectors_of_sample(reference, self.encoder)
            drift = measure_drift(rows, reference, vectors, reference_vectors, config, self.seed)
            findings.join(drift)
        return findings

    def _compare_rows(
        self, row_ids: Sequence[int], sketches: SketchBook, findings: SessionFindings
    ) -> None:
        """Add the rows that contradict another row, and the rows that are equal to an older one."""
        config = self.steps.validation
        if is_active("rows.contradictory", config):
            for index in np.flatnonzero(sketches.contradictions()).tolist():
                row = (row_ids[index], "same input, other target")
                findings.add_rows("rows.contradictory", [row])

        if is_active("rows.duplicate", config):
            originals = sketches.exact_duplicates()
            for index in np.flatnonzero(originals >= 0).tolist():
                row = (row_ids[index], f"equal to row {row_ids[originals[index]]}")
                findings.add_rows("rows.duplicate", [row])

    def _cleaned_reference(self) -> pd.DataFrame | None:
        """Return the previous session's rows, cleaned as this session's are, or None.

        Without the cleaning, the cleaning itself would be found as drift.
        """
        config = self.steps.validation
        if self.reference is None or not any(is_active(check, config) for check in _DRIFT_CHECKS):
            return None
        checked = check_rows(self.reference, self.steps.kind, config)
        return clean_rows(checked.rows, self.steps.cleaning).rows

    def _vectors_of_sample(
        self, reference: pd.DataFrame, encoder: TextEncoder
    ) -> npt.NDArray[np.float32]:
        """Return the vectors of the previous session's rows that drift is measured from."""
        from tunetrail.data.checks.drift import MOST_ROWS

        positions = sample_positions(reference["row_id"].to_numpy(), MOST_ROWS)
        # The checks of the previous session itself have looked at all of its rows.
        vectors = encoder.known_vectors(texts_to_encode(reference), self.cache)
        if vectors is not None:
            return vectors[positions]
        return encoder.cached_vectors(texts_to_encode(reference.iloc[positions]), self.cache)

    def _rows_at(self, positions: npt.NDArray[np.int64]) -> pd.DataFrame:
        """Return the rows at some positions in the session, reading one chunk at a time."""
        frames = []
        start = 0
        for chunk in self.chunks:
            end = start + chunk.counts.cleaned
            in_chunk = positions[(positions >= start) & (positions < end)] - start
            if len(in_chunk):
                frames.append(chunk.rows().iloc[in_chunk])
            start = end
        return pd.concat(frames, ignore_index=True)


def _read_columns(chunk: PreparedChunk, columns: Sequence[str]) -> pa.Table:
    return pq.read_table(chunk.folder / "rows.parquet", columns=list(columns))
