"""Where the chunks of a session come together: what only all of them show, each row's fate, and the files of the rows.

Holds a few dozen bytes for each row, and a chunk's texts at a time.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from tunetrail.data.checks.validation import check_config, check_rows, flag_frame
from tunetrail.data.checks.verdicts import EXAMPLES, findings_of, stop_reason, with_examples
from tunetrail.data.cleaning import clean_rows
from tunetrail.data.flow.chunk_steps import ChunkSteps, PreparedChunk
from tunetrail.data.flow.fates import Fates, FateWriter
from tunetrail.data.flow.prepared import FLAGS, PreparedSession
from tunetrail.data.privacy import Scrubber
from tunetrail.data.splits import Sides, assign_sides
from tunetrail.data.twins.duplicates import SketchBook
from tunetrail.errors import SampleError
from tunetrail.samples import shape_named

_LENGTH_CHECKS = ("rows.too_many_tokens", "conversations.truncated_output")
"""Checks of the chunks that set rows aside only here: the length policy of the cleaning comes first."""


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
        judgement = judgement.masked(Scrubber(self.steps.cleaning.privacy).mask)
        flags = [*self._chunk_flags(), *judgement.flags]
        fates = self._fates(
            book, [flag for flag in flags if flag[1] in _LENGTH_CHECKS] + judgement.flags
        )
        rows_in = self._total("rows_in")
        shapes: Counter[str] = sum(
            (Counter(chunk.counts["shapes"]) for chunk in self.chunks), Counter()
        )
        findings = findings_of(self.steps.validation, flags, judgement, rows_in, shapes)
        account = self._account(fates)
        sides, without_side = self._sides(fates, clusters, account[1])
        fates = replace(fates, split=without_side)
        stopped = stop_reason(findings) or self._too_few_left(account[0]) or without_side
        writer = FateWriter(folder=folder, kind=str(self.steps.kind), shapes=tuple(shapes))
        examples = writer.write(self.chunks, fates, sides, clusters, _wanted(findings))
        row_files.write_rows(
            flag_frame(flags), row_files.schema_of(("row_id", "check", "detail")), folder / FLAGS
        )
        details = {(check, row_id): detail for row_id, check, detail in reversed(flags)}
        session = PreparedSession(
            folder=folder,
            account=(*account, _split_account(account[1].rows_out, without_side)),
            findings=with_examples(findings, examples, details),
            sides=writer.rows_by_side,
            clusters=writer.clusters_by_side,
            method=sides.method if sides else self.split.method,
            warnings=sides.warnings if sides else (),
            placeholders=sum(
                (Counter(chunk.counts["placeholders"]) for chunk in self.chunks), Counter()
            ),
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
        content = {column for shape in shapes for column in shape_named(shape).columns}
        columns += sorted({"score", "label"} & content)
        tables = [
            pq.read_table(chunk.folder / "rows.parquet", columns=columns) for chunk in self.chunks
        ]
        table = pa.concat_tables(tables)

        def values(name: str) -> list[Any]:
            return list(table.column(name).dictionary_encode().to_pylist())

        dimensions = None
        if "embedding" in content:
            files = (
                pq.read_table(chunk.folder / "rows.parquet", columns=["embedding"])
                for chunk in self.chunks
            )
            dimensions = np.concatenate(
                [pc.list_value_length(each.column("embedding")).to_numpy() for each in files]
            )
        return SessionFacts(
            row_ids=table.column("row_id").to_numpy(),
            languages=values("language"),
            timestamps=values("timestamp"),
            scores=table.column("score").to_numpy() if "score" in content else None,
            labels=values("label") if "label" in content else None,
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
            judgement.add(
                "rows.contradictory", ((int(ids[each]), "same input, other target") for each in odd)
            )
        if config.rows.duplicate.severity != "off":
            older = book.exact_duplicates()
            twice = np.flatnonzero(older >= 0)
            judgement.add(
                "rows.duplicate",
                ((int(ids[each]), f"equal to row {ids[older[each]]}") for each in twice),
            )
        positions = drawn(ids, config.judged_rows)
        wants_rows = any(
            each.severity != "off" for each in (config.rows.outlier, config.labels.mislabelled)
        )
        reference = self._cleaned_reference()
        if not len(positions) or (self.judge.vectors is None and reference is None):
            return judgement
        rows = self._rows_at(positions).assign(cluster=[clusters[each] for each in positions])
        vectors = None
        compares_vectors = reference is not None and config.drift.embedding.severity != "off"
        if self.judge.vectors is not None and (wants_rows or compares_vectors):
            vectors = kept_vectors(self.judge, texts_to_judge(rows), self.cache)
            judgement.join(judge_vectors(rows, vectors, config, self.seed))
        if reference is not None and len(reference):
            before = None
            if self.judge.vectors is not None and compares_vectors:
                before = kept_vectors(self.judge, texts_to_judge(reference), self.cache)
            judgement.join(judge_drift(rows, reference, vectors, before, config, self.seed))
        return judgement

    def _cleaned_reference(self) -> pd.DataFrame | None:
        """Return the previous session's rows as this session's come out of cleaning, or drift would be found in it."""
        drift = self.steps.validation.drift
        wanted = any(
            each.severity != "off" for each in (drift.length, drift.vocabulary, drift.embedding)
        )
        if self.judge.reference is None or not wanted:
            return None
        checked = check_rows(self.judge.reference, self.steps.kind, self.steps.validation)
        return clean_rows(checked.rows, self.steps.cleaning).rows

    def _rows_at(self, positions: npt.NDArray[np.int64]) -> pd.DataFrame:
        parts, start = [], 0
        for chunk in self.chunks:
            count = int(chunk.counts["cleaned"])
            inside = positions[(positions >= start) & (positions < start + count)] - start
            if len(inside):
                parts.append(chunk.rows().iloc[inside])
            start += count
        return pd.concat(parts, ignore_index=True)

    def _fates(self, book: SketchBook, flags: Sequence[Flag]) -> Fates:
        ids = self._facts.row_ids
        by_id = np.argsort(ids, kind="stable")
        ordered = ids[by_id]
        validation: dict[int, dict[str, None]] = defaultdict(dict)
        for row_id, check, detail in flags:
            if check_config(check, self.steps.validation).set_aside:
                place = int(np.searchsorted(ordered, row_id))
                if (
                    place < len(ordered) and ordered[place] == row_id
                ):  # else a step of its chunk has taken it out
                    validation[int(by_id[place])][f"{check.partition('.')[2]}: {detail}"] = None
        alive = np.ones(len(ids), dtype=bool)
        alive[list(validation)] = False
        cleaning: dict[int, str] = {}
        config = self.steps.cleaning
        if config.drop_duplicates:
            older = book.exact_duplicates(alive)
            cleaning.update(
                (int(each), f"duplicate of row {ids[older[each]]}")
                for each in np.flatnonzero(older >= 0)
            )
            alive[list(cleaning)] = False
        if config.near_duplicate_similarity:
            older = book.near_duplicates(config.near_duplicate_similarity, alive)
            cleaning.update(
                (int(each), f"near-duplicate of row {ids[older[each]]}")
                for each in np.flatnonzero(older >= 0)
            )
        return Fates(
            validation={each: "; ".join(why) for each, why in validation.items()}, cleaning=cleaning
        )

    def _account(self, fates: Fates) -> tuple[StepAccount, StepAccount]:
        rows_in, validated, cleaned = (
            self._total(name) for name in ("rows_in", "validated", "cleaned")
        )
        reasons: dict[str, Counter[str]] = {"validation": Counter(), "cleaning": Counter()}
        changed = 0
        gone = {int(self._facts.row_ids[each]) for each in (*fates.validation, *fates.cleaning)}
        for chunk in self.chunks:
            lines = chunk.set_aside(["step", "reason"])
            for step, reason in zip(lines["step"], lines["reason"], strict=True):
                reasons[step][reason_kind(reason)] += 1
            changed += sum(
                row_id not in gone for row_id in chunk.changes(["row_id"])["row_id"].tolist()
            )
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

    def _sides(
        self, fates: Fates, clusters: Sequence[str], cleaning: StepAccount
    ) -> tuple[Sides | None, str | None]:
        """Return the sides of the rows that stay (`""` for those that go), or why they can't have any."""
        stays = np.ones(len(clusters), dtype=bool)
        stays[[*fates.validation, *fates.cleaning]] = False
        stay = np.flatnonzero(stays).tolist()
        if not stay:
            reason, count = next(iter(cleaning.reasons.items()), ("none came", 0))
            return (
                None,
                f"no row is left to split; commonest reason of the cleaning: {reason} ({count} rows).",
            )
        labels = self._facts.labels
        try:
            assigned = assign_sides(
                [clusters[each] for each in stay],
                self.split,
                timestamps=[self._facts.timestamps[each] for each in stay],
                labels=None if labels is None else [labels[each] for each in stay],
            )
        except SampleError as error:
            return None, str(error)
        sides = np.full(len(clusters), "", dtype="<U10")
        sides[stay] = assigned.sides
        return Sides(sides=sides, method=assigned.method, warnings=assigned.warnings), None


def _split_account(rows: int, without_side: str | None) -> StepAccount:
    if without_side is None or not rows:
        return StepAccount(step="split", rows_in=rows, rows_out=rows, set_aside=0)
    return StepAccount(
        step="split",
        rows_in=rows,
        rows_out=0,
        set_aside=rows,
        reasons={reason_kind(without_side): rows},
    )


def _wanted(findings: Sequence[Finding]) -> set[int]:
    return {row_id for finding in findings for row_id in finding.row_ids[:EXAMPLES]}


def reason_kind(reason: str) -> str:
    """Return a reason without the numbers that differ from row to row."""
    return (
        re.sub(r"\d+(\.\d+)?", "N", reason)
        if " row " in reason or "tokens" in reason or "score" in reason
        else reason
    )
