"""The stage that brings a session's chunks together and gives each row a side, or sets it aside.

Every chunk has been validated, cleaned and sketched by itself. What only all rows together show is
decided here, in this order:

1. Twins: rows that are equal or nearly equal form clusters, which no split may divide.
2. Checks of the session: contradictions, outliers, wrong labels, drift (`session_findings`).
3. Removals: rows that the checks set aside, and duplicates (`removals`).
4. The split: each cluster of the remaining rows goes to one side.
5. The files: every row is written to its side or set aside with a reason (`session_writer`), and
   the account of the rows adds up (`accounts`).

The stage holds a few dozen bytes for each row, and the texts of one chunk at a time.
"""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.cache import ResultCache
from tunetrail.config import SplitConfig
from tunetrail.data.checks.results import CheckResult, Flag, StepAccount
from tunetrail.data.checks.row_vectors import TextEncoder
from tunetrail.data.checks.session_checks import SessionFacts
from tunetrail.data.checks.thresholds import EXAMPLES, check_results, stop_reason, with_examples
from tunetrail.data.flow.accounts import split_account, step_accounts, too_few_left
from tunetrail.data.flow.chunk_steps import ChunkCounts, ChunkSteps, PreparedChunk
from tunetrail.data.flow.prepared import PreparedSession
from tunetrail.data.flow.removals import (
    Removals,
    dropped_rows_result,
    find_removals,
    with_example_pair,
)
from tunetrail.data.flow.session_findings import SessionChecks, read_facts
from tunetrail.data.flow.session_writer import SessionWriter
from tunetrail.data.privacy import Scrubber
from tunetrail.data.sides import Sides, assign_sides
from tunetrail.data.twins.duplicates import SketchBook, sketch_book
from tunetrail.errors import SampleError
from tunetrail.fingerprints import value_fingerprint
from tunetrail.reporting.readable import counted

# Libraries whose versions can change what is decided here, in addition to the chunks' libraries.
_LIBRARIES = ("pandas", "scikit-learn", "scipy")


@dataclass(frozen=True, kw_only=True)
class SessionStage:
    """The chunks of a session, and how they are brought together; see `Preparation`."""

    chunks: Sequence[PreparedChunk]
    steps: ChunkSteps
    split: SplitConfig
    encoder: TextEncoder | None
    reference: pd.DataFrame | None
    cache: ResultCache
    seed: int

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of everything that the result depends on."""
        reference = None
        if self.reference is not None:
            rows = self.reference.to_dict("records")
            reference = value_fingerprint(rows)

        settings = [
            # The folder of a chunk is named by its rows and its steps.
            [chunk.folder.name for chunk in self.chunks],
            self.steps.identity,
            asdict(self.steps.validation),
            asdict(self.split),
            self.encoder.identity if self.encoder else None,
            reference,
            self.seed,
            list(map(importlib.metadata.version, _LIBRARIES)),
        ]
        return value_fingerprint(settings)

    def run(self, folder: Path, scratch: Path) -> PreparedSession:
        """Check the session, drop duplicates, split the rows, and write everything to `folder`.

        Args:
            folder: The folder of the prepared session.
            scratch: An empty folder for temporary files.
        """
        # What all rows together show.
        facts = read_facts(self.chunks)
        sketches, clusters = self._find_twins(scratch)
        flags, results = self._check(facts, sketches, clusters)

        # Which rows remain, and on which side.
        removals = find_removals(sketches, flags, self.steps.validation, self.steps.cleaning)
        validation, cleaning = step_accounts(self.chunks, removals, facts.row_ids)
        dropped = dropped_rows_result(cleaning, removals, facts.row_ids, self.steps.cleaning)
        sides = None
        try:
            sides = self._assign_sides(facts, clusters, removals, cleaning)
        except SampleError as error:
            # The rows are still written: with the reason, people see what to change.
            removals = replace(removals, split=str(error))

        # The files, and what stops a training: errors, too many rejected rows, or no sides.
        writer = self._write_rows(folder, removals, sides, clusters, flags, (*results, dropped))
        findings = with_examples(results, writer.examples, flags)
        findings = (*findings, with_example_pair(dropped, writer.examples))
        max_rejected_share = self.steps.validation.max_rejected_share
        session = PreparedSession(
            folder=folder,
            account=(validation, cleaning, split_account(cleaning.rows_out, removals.split)),
            findings=findings,
            sides=writer.rows_by_side,
            clusters=writer.clusters_by_side,
            method=sides.method if sides else self.split.method,
            # Sides that miss their shares follow from the rows that are gone, not from the split.
            warnings=sides.warnings if sides and dropped.severity != "error" else (),
            placeholders=ChunkCounts.total(self.chunks).placeholders,
            stopped=stop_reason(findings)
            or too_few_left(validation, max_rejected_share)
            or removals.split,
        )
        session.write_summary()
        return session

    def _find_twins(self, scratch: Path) -> tuple[SketchBook, Sequence[str]]:
        """Return the sketches of all rows, and the key of each row's cluster of twins."""
        sketches = sketch_book(scratch / "sketches", self.chunks)
        similarity = self.split.near_duplicate_similarity
        return sketches, sketches.cluster_keys(similarity) if len(sketches) else []

    def _check(
        self, facts: SessionFacts, sketches: SketchBook, clusters: Sequence[str]
    ) -> tuple[list[Flag], tuple[CheckResult, ...]]:
        """Return the flags of all checks, also of the chunks, and the result of every check."""
        checks = SessionChecks(
            chunks=self.chunks,
            steps=self.steps,
            encoder=self.encoder,
            reference=self.reference,
            cache=self.cache,
            seed=self.seed,
        )
        findings = checks.run(facts, sketches, clusters)
        # Details quote labels, which the cleaning of the texts doesn't reach.
        findings = findings.masked(Scrubber(self.steps.cleaning.privacy).mask)

        flags: list[Flag] = []
        for chunk in self.chunks:
            flags += chunk.flags()
        flags += findings.flags
        counts = ChunkCounts.total(self.chunks)
        results = check_results(
            self.steps.validation, flags, findings, counts.rows_in, counts.shapes
        )
        return flags, results

    def _assign_sides(
        self,
        facts: SessionFacts,
        clusters: Sequence[str],
        removals: Removals,
        cleaning: StepAccount,
    ) -> Sides:
        """Return the side of each row, an empty text for removed rows.

        Raises:
            SampleError: No row remains, or there are too few clusters for three sides.
        """
        remains = np.ones(len(clusters), dtype=bool)
        remains[removals.positions] = False
        remaining = np.flatnonzero(remains).tolist()
        if not remaining:
            reason, count = next(iter(cleaning.reasons.items()), ("none came", 0))
            raise SampleError(
                "no row is left to split; most common reason in cleaning: "
                f"{reason} ({counted(count, 'row')})."
            )

        def of_remaining(values: Sequence[Any]) -> list[Any]:
            return [values[position] for position in remaining]

        assigned = assign_sides(
            of_remaining(clusters),
            self.split,
            timestamps=of_remaining(facts.timestamps),
            labels=None if facts.labels is None else of_remaining(facts.labels),
        )
        # Back to positions in the session.
        sides = np.full(len(clusters), "", dtype="<U10")
        sides[remaining] = assigned.sides
        return replace(assigned, sides=sides)

    def _write_rows(
        self,
        folder: Path,
        removals: Removals,
        sides: Sides | None,
        clusters: Sequence[str],
        flags: Sequence[Flag],
        results: Sequence[CheckResult],
    ) -> SessionWriter:
        """Write all rows and flags, and return the writer, which knows how many rows went where."""
        shapes = tuple(ChunkCounts.total(self.chunks).shapes)
        example_ids: set[int] = set()
        for result in results:
            example_ids.update(result.row_ids[:EXAMPLES])
        writer = SessionWriter(folder, str(self.steps.kind), shapes, example_ids)
        writer.write_chunks(self.chunks, removals, sides, clusters)
        writer.write_flags(flags)
        writer.close()
        return writer
