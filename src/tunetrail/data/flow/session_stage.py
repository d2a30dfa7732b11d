"""Where the chunks of a session come together: what only all of them show, each row's fate, and the files of the rows.

Holds a few dozen bytes for each row, and a chunk's texts at a time.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tunetrail.cache import ResultCache
from tunetrail.config import SplitConfig
from tunetrail.data import row_files
from tunetrail.data.checks.findings import Finding, StepAccount
from tunetrail.data.checks.judged_rows import Judge, drawn, kept_vectors, texts_to_judge
from tunetrail.data.checks.session_checks import (
    Flag,
    SessionFacts,
    SessionJudgement,
    judge_drift,
    judge_facts,
    judge_vectors,
)
from tunetrail.data.checks.validation import check_config, flag_frame
from tunetrail.data.checks.verdicts import EXAMPLES, findings_of, stop_reason, with_examples
from tunetrail.data.flow.chunk_steps import ChunkSteps, PreparedChunk
from tunetrail.data.flow.prepared import CHANGES, FLAGS, SET_ASIDE, PreparedSession, side_file
from tunetrail.data.rows import content_text, records_of, set_aside_frame, texts_of
from tunetrail.data.splits import SIDES, Sides, assign_sides
from tunetrail.data.twins.duplicates import SketchBook
from tunetrail.errors import SampleError

_ALSO_WRITTEN = ("cluster", "token_count", "characters", "language")
_EXAMPLE_CHARACTERS = 300


@dataclass(frozen=True, kw_only=True)
class _Fates:
    """Why rows go, by position in the session: those that the session's checks and its duplicates take out."""

    validation: Mapping[int, str]
    cleaning: Mapping[int, str]

    def step_of(self, position: int) -> tuple[str, str] | None:
        if position in self.validation:
            return "validation", self.validation[position]
        return ("cleaning", self.cleaning[position]) if position in self.cleaning else None


@dataclass(frozen=True, kw_only=True)
class SessionStage:
    """The chunks, and what to do with them together; see `Preparation` for the fields."""

    chunks: Sequence[PreparedChunk]
    steps: ChunkSteps
    split: SplitConfig
    judge: Judge
    cache: ResultCache
    seed: int

    def run(self, folder: Path, scratch: Path) -> PreparedSession:
        """Judge, drop duplicates, split, and write the rows and all that is known of them into `folder`."""
        (scratch / "sketches").mkdir()
        book = SketchBook(scratch / "sketches")
        for chunk in self.chunks:
            book.add(chunk.sketches())
        row_ids = self._facts.row_ids
        clusters = book.cluster_keys(self.split.near_duplicate_similarity) if len(row_ids) else []
        judgement = self._judged(book, clusters)
        fates = self._fates(book, judgement)
        rows_in = self._total("rows_in")
        flags = [*self._chunk_flags(), *judgement.flags]
        shapes: Counter[str] = sum((Counter(chunk.counts["shapes"]) for chunk in self.chunks), Counter())
        findings = findings_of(self.steps.validation, flags, judgement, rows_in, shapes)
        account = self._account(fates)
        stopped = stop_reason(findings) or self._too_few_left(account[0])
        sides: Sides | None = None
        if stopped is None:
            try:
                sides = self._sides(fates, clusters)
            except SampleError as error:
                stopped = str(error)
        writer = _FateWriter(folder=folder, kind=str(self.steps.kind), shapes=tuple(shapes))
        examples = writer.write(self.chunks, fates, sides, clusters, _wanted(findings))
        row_files.write_rows(flag_frame(flags), row_files.schema_of(("row_id", "check", "detail")), folder / FLAGS)
        details = {(check, row_id): detail for row_id, check, detail in reversed(flags)}
        session = PreparedSession(
            folder=folder,
            account=(
                *account,
                StepAccount(step="split", rows_in=account[1].rows_out, rows_out=account[1].rows_out, set_aside=0),
            ),
            findings=with_examples(findings, examples, details),
            sides=writer.rows_by_side,
            clusters=writer.clusters_by_side,
            method=sides.method if sides else self.split.method,
            warnings=sides.warnings if sides else (),
            placeholders=sum((Counter(chunk.counts["placeholders"]) for chunk in self.chunks), Counter()),
            stopped=stopped,
        )
        session.write_summary()
        return session

    def _total(self, name: str) -> int:
        return sum(int(chunk.counts[name]) for chunk in self.chunks)

    @cached_property
    def _facts(self) -> SessionFacts:
        columns = ["row_id", "language", "timestamp"]
        shapes = {shape for chunk in self.chunks for shape in chunk.counts["shapes"]}
        columns += [name for name, shape in (("score", "score"), ("label", "label")) if shape in shapes]
        tables = [pq.read_table(chunk.folder / "rows.parquet", columns=columns) for chunk in self.chunks]
        table = pa.concat_tables(tables)

        def values(name: str) -> list[Any]:
            return list(table.column(name).dictionary_encode().to_pylist())

        dimensions = None
        if "vector" in shapes:
            files = (pq.read_table(chunk.folder / "rows.parquet", columns=["embedding"]) for chunk in self.chunks)
            dimensions = np.concatenate([pc.list_value_length(each.column("embedding")).to_numpy() for each in files])
        return SessionFacts(
            row_ids=table.column("row_id").to_numpy(),
            languages=values("language"),
            timestamps=values("timestamp"),
            scores=table.column("score").to_numpy() if "score" in shapes else None,
            labels=values("label") if "label" in shapes else None,
            dimensions=dimensions,
        )

    def _chunk_flags(self) -> Iterator[Flag]:
        for chunk in self.chunks:
            flags = chunk.flags()
            yield from zip(flags["row_id"].tolist(), flags["check"], flags["detail"], strict=True)

    def _judged(self, book: SketchBook, clusters: Sequence[str]) -> SessionJudgement:
        config, facts = self.steps.validation, self._facts
        judgement = judge_facts(facts, config)
        ids = facts.row_ids
        if config.rows.contradictory.severity != "off":
            odd = np.flatnonzero(book.contradictions())
            judgement.add("rows.contradictory", ((int(ids[each]), "same input, other target") for each in odd))
        if config.rows.duplicate.severity != "off":
            older = book.exact_duplicates()
            twice = np.flatnonzero(older >= 0)
            judgement.add("rows.duplicate", ((int(ids[each]), f"equal to row {ids[older[each]]}") for each in twice))
        positions = drawn(ids, config.judged_rows)
        wants_rows = any(each.severity != "off" for each in (config.rows.outlier, config.labels.mislabelled))
        reference = self.judge.reference
        if not len(positions) or (self.judge.vectors is None and reference is None):
            return judgement
        rows = self._rows_at(positions).assign(cluster=[clusters[each] for each in positions])
        vectors = None
        if self.judge.vectors is not None and (wants_rows or reference is not None):
            vectors = kept_vectors(self.judge, texts_to_judge(rows), self.cache)
            judgement.join(judge_vectors(rows, vectors, config, self.seed))
        if reference is not None and len(reference):
            before = None
            if self.judge.vectors is not None:
                before = kept_vectors(self.judge, texts_to_judge(reference), self.cache)
            judgement.join(judge_drift(rows, reference, vectors, before, config, self.seed))
        return judgement

    def _rows_at(self, positions: npt.NDArray[np.int64]) -> pd.DataFrame:
        parts, start = [], 0
        for chunk in self.chunks:
            count = int(chunk.counts["cleaned"])
            inside = positions[(positions >= start) & (positions < start + count)] - start
            if len(inside):
                parts.append(chunk.rows().iloc[inside])
            start += count
        return pd.concat(parts, ignore_index=True)

    def _fates(self, book: SketchBook, judgement: SessionJudgement) -> _Fates:
        ids = self._facts.row_ids
        by_id = np.argsort(ids, kind="stable")
        flagged = [row_id for row_id, _, _ in judgement.flags]
        positions = by_id[np.searchsorted(ids, flagged, sorter=by_id)].tolist()
        validation: dict[int, dict[str, None]] = defaultdict(dict)
        for position, (_, check, detail) in zip(positions, judgement.flags, strict=True):
            if check_config(check, self.steps.validation).set_aside:
                validation[position][f"{check.partition('.')[2]}: {detail}"] = None
        alive = np.ones(len(ids), dtype=bool)
        alive[list(validation)] = False
        cleaning: dict[int, str] = {}
        config = self.steps.cleaning
        if config.drop_duplicates:
            older = book.exact_duplicates(alive)
            cleaning.update((int(each), f"duplicate of row {ids[older[each]]}") for each in np.flatnonzero(older >= 0))
            alive[list(cleaning)] = False
        if config.near_duplicate_similarity:
            older = book.near_duplicates(config.near_duplicate_similarity, alive)
            cleaning.update(
                (int(each), f"near-duplicate of row {ids[older[each]]}") for each in np.flatnonzero(older >= 0)
            )
        return _Fates(validation={each: "; ".join(why) for each, why in validation.items()}, cleaning=cleaning)

    def _account(self, fates: _Fates) -> tuple[StepAccount, StepAccount]:
        rows_in, validated, cleaned = (self._total(name) for name in ("rows_in", "validated", "cleaned"))
        reasons: dict[str, Counter[str]] = {"validation": Counter(), "cleaning": Counter()}
        changed = 0
        gone = {int(self._facts.row_ids[each]) for each in (*fates.validation, *fates.cleaning)}
        for chunk in self.chunks:
            lines = chunk.set_aside(["step", "reason"])
            for step, reason in zip(lines["step"], lines["reason"], strict=True):
                reasons[step][reason_kind(reason)] += 1
            changed += sum(row_id not in gone for row_id in chunk.changes(["row_id"])["row_id"].tolist())
        reasons["validation"].update(map(reason_kind, fates.validation.values()))
        reasons["cleaning"].update(map(reason_kind, fates.cleaning.values()))
        first = StepAccount(
            step="validation",
            rows_in=rows_in,
            rows_out=validated - len(fates.validation),
            set_aside=rows_in - validated + len(fates.validation),
            reasons=dict(reasons["validation"].most_common()),
        )
        out = cleaned - len(fates.validation) - len(fates.cleaning)
        second = StepAccount(
            step="cleaning",
            rows_in=first.rows_out,
            rows_out=out,
            set_aside=first.rows_out - out,
            changed=changed,
            reasons=dict(reasons["cleaning"].most_common()),
        )
        return first, second

    def _too_few_left(self, validation: StepAccount) -> str | None:
        allowed = self.steps.validation.max_rejected_share
        if validation.rows_out and validation.set_aside <= allowed * validation.rows_in:
            return None
        reason, count = next(iter(validation.reasons.items()))
        way_out = f"Mend or remove them{', or raise validation.max_rejected_share' if validation.rows_out else ''}."
        return (
            f"rejected rows must be at most {allowed:.0%} of all, got {validation.set_aside} of {validation.rows_in}; "
            f"commonest reason: {reason} ({count} rows). {way_out}"
        )

    def _sides(self, fates: _Fates, clusters: Sequence[str]) -> Sides:
        """Return the sides of the rows that stay; rows that go have the side `""`."""
        stays = np.ones(len(clusters), dtype=bool)
        stays[[*fates.validation, *fates.cleaning]] = False
        stay = np.flatnonzero(stays).tolist()
        labels = self._facts.labels
        assigned = assign_sides(
            [clusters[each] for each in stay],
            self.split,
            timestamps=[self._facts.timestamps[each] for each in stay],
            labels=None if labels is None else [labels[each] for each in stay],
        )
        sides = np.full(len(clusters), "", dtype="<U10")
        sides[stay] = assigned.sides
        return Sides(sides=sides, method=assigned.method, warnings=assigned.warnings)


class _FateWriter:
    """Writes every row to the file of its side, or to that of the rows set aside, chunk by chunk."""

    def __init__(self, folder: Path, kind: str, shapes: Sequence[str]) -> None:
        columns = [*row_files.columns_of_shapes(kind, shapes), *_ALSO_WRITTEN]
        (folder / "rows").mkdir(exist_ok=True)
        self._sides = {
            side: row_files.RowWriter(side_file(folder, side), row_files.schema_of(columns)) for side in SIDES
        }
        self._set_aside = row_files.RowWriter(folder / SET_ASIDE, row_files.SET_ASIDE_SCHEMA)
        self._changes = row_files.RowWriter(folder / CHANGES, row_files.SET_ASIDE_SCHEMA)
        self._clusters: dict[str, set[str]] = {side: set() for side in SIDES}

    @property
    def rows_by_side(self) -> dict[str, int]:
        return {side: writer.rows for side, writer in self._sides.items()}

    @property
    def clusters_by_side(self) -> dict[str, int]:
        return {side: len(clusters) for side, clusters in self._clusters.items()}

    def write(
        self,
        chunks: Sequence[PreparedChunk],
        fates: _Fates,
        sides: Sides | None,
        clusters: Sequence[str],
        wanted: set[int],
    ) -> dict[int, str]:
        """Write all chunks and return the texts of the wanted rows; where rows have no side, none is written."""
        examples: dict[int, str] = {}
        start = 0
        for chunk in chunks:
            rows, early, changes = chunk.rows(), chunk.set_aside(), chunk.changes()
            examples.update(_example_texts(rows, early, wanted))
            fate_of = {each: fate for each in range(len(rows)) if (fate := fates.step_of(start + each)) is not None}
            self._set_aside.write(early)
            before = dict(zip(changes["row_id"], changes["before"], strict=True))
            for step in ("validation", "cleaning"):
                going = [each for each, (of_step, _) in fate_of.items() if of_step == step]
                self._set_aside.write(_going(step, rows, going, fate_of, before))
            gone = set(rows["row_id"].to_numpy()[list(fate_of)].tolist())
            self._changes.write(changes[[row_id not in gone for row_id in changes["row_id"]]])
            if sides is not None:
                here = sides.sides[start : start + len(rows)]
                framed = rows.assign(cluster=clusters[start : start + len(rows)])
                for side, writer in self._sides.items():
                    writer.write(framed[here == side])
                    self._clusters[side].update(framed.loc[here == side, "cluster"])
            start += len(rows)
        for writer in (*self._sides.values(), self._set_aside, self._changes):
            writer.close()
        return examples


def _going(
    step: str,
    rows: pd.DataFrame,
    positions: Sequence[int],
    fate_of: Mapping[int, tuple[str, str]],
    before: Mapping[int, str],
) -> pd.DataFrame:
    lines = []
    for position, record in zip(positions, records_of(rows.iloc[list(positions)]), strict=True):
        content, row_id = content_text(record), int(record["row_id"])
        after = content if step == "cleaning" else None
        lines.append((row_id, fate_of[position][1], before.get(row_id, content), after))
    return set_aside_frame(step, lines)


def _wanted(findings: Sequence[Finding]) -> set[int]:
    return {row_id for finding in findings for row_id in finding.row_ids[:EXAMPLES]}


def _example_texts(rows: pd.DataFrame, set_aside: pd.DataFrame, wanted: set[int]) -> dict[int, str]:
    found = {}
    for row_id, before in zip(set_aside["row_id"].tolist(), set_aside["before"], strict=True):
        if row_id in wanted:
            found[row_id] = before or ""
    for position in np.flatnonzero(rows["row_id"].isin(wanted)):
        record = {str(name): value for name, value in rows.loc[position].to_dict().items() if value is not None}
        found[int(record["row_id"])] = " | ".join(texts_of(record))
    return {row_id: text[:_EXAMPLE_CHARACTERS] for row_id, text in found.items()}


def reason_kind(reason: str) -> str:
    """Return a reason without the numbers that differ from row to row."""
    return (
        re.sub(r"\d+(\.\d+)?", "N", reason) if " row " in reason or "tokens" in reason or "score" in reason else reason
    )
