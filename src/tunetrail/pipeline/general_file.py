"""The general file: rows that every candidate is scored on, whatever its session."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from tunetrail.config import Settings
from tunetrail.config.checks import check
from tunetrail.data.checks.validation import check_rows
from tunetrail.data.cleaning import clean_rows
from tunetrail.data.conventions.convention import is_known_form
from tunetrail.data.conventions.reading import RowReader
from tunetrail.data.formats import Row, read_rows
from tunetrail.data.rows import rows_frame
from tunetrail.data.twins.duplicates import cluster_keys
from tunetrail.errors import ConfigError, SampleError
from tunetrail.fingerprints import file_fingerprint
from tunetrail.pipeline.scoring import draw_by_content
from tunetrail.samples import (
    BrokenRow,
    Sample,
    SampleKind,
    sample_kinds,
    shape_named,
)

GENERAL_FILE = "evaluation.general_file"


@dataclass(frozen=True, kw_only=True)
class GeneralFile:
    """The general file of a run, read for one family.

    Attributes:
        name: The name of the file, without its folder.
        digest: SHA-256 (hex) of the file.
        rows: The rows of the family's kind, checked and cleaned as a session's rows are. The
            `row_id` is the position in the file, from 1, or the sample's if a row gives several.
    """

    name: str
    digest: str
    rows: pd.DataFrame

    def general_set(self, shape: str, settings: Settings) -> pd.DataFrame:
        """Return the rows to score on, drawn by their content, with the cluster of each.

        Args:
            shape: The shape of the rows that the model is judged by.
            settings: All that can be set.

        Raises:
            ConfigError: No row of the file can be scored together with rows of this shape.
        """
        objective = shape_named(shape).objective
        shapes = list(self.rows["shape"])
        is_comparable = [shape_named(name).objective == objective for name in shapes]
        check(
            any(is_comparable),
            GENERAL_FILE,
            f"a file with rows like the session's (of the shape {shape})",
            f"{self.name} with {', '.join(sorted(set(shapes)))}",
            f"Add such rows to it, or set {GENERAL_FILE}=null.",
        )

        comparable = self.rows[is_comparable].reset_index(drop=True)
        drawn = draw_by_content(comparable, settings.evaluation.benchmark_rows)
        # Near-duplicates are no independent evidence.
        return drawn.assign(cluster=cluster_keys(drawn, settings.split.near_duplicate_similarity))


def read_general_file(settings: Settings, kind: SampleKind) -> GeneralFile | None:
    """Return the configured file with its rows of a kind; None if none is configured.

    Raises:
        ConfigError: The file can't be read, or one of its rows can't be scored.
    """
    if settings.evaluation.general_file is None:
        return None
    path = Path(settings.evaluation.general_file)
    check(path.is_file(), GENERAL_FILE, "an existing file", str(path), "Correct its path.")

    samples: list[tuple[int, Sample]] = []
    # The file may have the columns of a public data set, as an ingested one may.
    reader = RowReader(kind)
    try:
        for position, row in enumerate(read_rows(path), start=1):
            samples += [(position, sample) for sample in _samples_of(row, position, reader)]
        for position, sample in reader.finish():
            if isinstance(sample, Sample):
                samples.append((position, sample))
        digest = file_fingerprint(path)
    except (SampleError, OSError) as error:
        raise ConfigError(f"{GENERAL_FILE} must be a readable file of rows, got {error}") from error

    advice = f"Add such rows to it, or set {GENERAL_FILE}=null."
    check(bool(samples), GENERAL_FILE, f"a file with {kind} rows", str(path), advice)
    # A row of several samples has no position for each of them.
    if len({position for position, _ in samples}) < len(samples):
        samples = [(row_id, sample) for row_id, (_, sample) in enumerate(samples, start=1)]
    rows = _clean_rows(rows_frame(samples), kind, settings)
    return GeneralFile(name=path.name, digest=digest, rows=rows)


def _samples_of(row: Row, position: int, reader: RowReader) -> list[Sample]:
    """Return the samples of a row, none if it is one of another kind; raises `ConfigError`."""
    if isinstance(row, BrokenRow):
        raise _unusable(row.reason)
    # The rows of a run with both model types are in one file.
    columns = {str(column) for column, value in row.items() if value is not None}
    other_kinds = [kind for kind in sample_kinds() if kind != reader.kind]
    is_of_another_kind = any(is_known_form(columns, kind) for kind in other_kinds)
    if is_of_another_kind and not is_known_form(columns, reader.kind):
        return []

    try:
        return reader.read(row)
    except SampleError as error:
        raise _unusable(f"row {position}: {error}") from error


def _clean_rows(rows: pd.DataFrame, kind: SampleKind, settings: Settings) -> pd.DataFrame:
    """Return the rows as a session's would be scored; raises `ConfigError` if one is unusable."""
    checked = check_rows(rows, kind, settings.validation)
    cleaned = clean_rows(checked.rows, settings.cleaning)
    # The set is fixed: a row that is set aside today would make it another one.
    for set_aside in (checked.set_aside, cleaned.set_aside):
        for line in set_aside.head(1).to_dict("records"):
            raise _unusable(f"row {line['row_id']}: {line['reason']}")
    return cleaned.rows


def _unusable(problem: str) -> ConfigError:
    return ConfigError(
        f"{GENERAL_FILE} must be a file whose rows can all be scored, got {problem.rstrip('.')}. "
        "Correct the row, or remove it."
    )
