"""Example rows: the scores of every held-out row before and after a training, in one Parquet file.

Comparisons, slices and worst rows are answered from this file, without a model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tunetrail.errors import UserError, first_line
from tunetrail.evaluation.metrics import is_metric, metric_named
from tunetrail.evaluation.scores import Scores, scores_from
from tunetrail.plain_values import plain_values

ROWS_ARTIFACT = "evaluation/rows.parquet"
"""Path of the file among the artifacts of its run."""

TEST, FOLD = "test", "fold"
"""Values of the column `side`: rows of the test side, and held-out rows of a fold."""

CANDIDATE, REFERENCE = "", "reference_"
"""Prefixes of the columns of both models: the candidate, and the version to beat or the base."""

# The first columns of the file, which are always there, and their types.
_IDENTITY = {
    "side": pa.string(),
    "fold": pa.int64(),
    "row_id": pa.int64(),
    "text_hash": pa.string(),
    "cluster": pa.string(),
}
_METADATA_KEY = b"tunetrail"


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """What all rows of a file have in common.

    Attributes:
        model_type: The family of the models.
        shape: The shape of the rows.
        metric: Name of the primary metric.
        against: What the candidate is compared with: the URI of a version, or `base`.
        run_id: The MLflow run of the candidate.
        metrics: The candidate's metrics on the test side.
        reference_metrics: The same of the version to beat.
        documents: Number of documents that were ranked; None for metrics without ranking.
        corpus: Fingerprint of these documents.
        fold_corpus: Fingerprint of the documents that the rows of the folds ranked, if there are
            any.
        own_columns: Names of the columns that the user gave the rows.
        scored_rows: Number of rows of the test side that were scored; None if unknown.
        side_rows: Number of rows of the test side that were to be scored; None if unknown.
    """

    model_type: str
    shape: str
    metric: str
    against: str
    run_id: str
    metrics: dict[str, float]
    reference_metrics: dict[str, float]
    documents: int | None = None
    corpus: str | None = None
    fold_corpus: str | None = None
    own_columns: tuple[str, ...] = ()
    scored_rows: int | None = None
    side_rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class ExampleRows:
    """The rows of a file.

    Attributes:
        run: What they have in common.
        table: A line for each scored row: `side`, `fold`, `row_id`, `text_hash` and `cluster`; what
            is known of the row, such as `group`, `label`, `language` and `characters`; and each
            value N of `Scores.per_example` as `N` of the candidate and `reference_N` of the version
            to beat. Integers have the dtype Int64, and absent texts are None.
    """

    run: ScoredRun
    table: pd.DataFrame

    @property
    def value_names(self) -> list[str]:
        """Names of the per-example values, without prefix."""
        prefixed = self.table.columns[self.table.columns.str.startswith(REFERENCE)]
        names: list[str] = prefixed.str.removeprefix(REFERENCE).tolist()
        return [name for name in names if name in self.table]

    def scores(self, model: str = CANDIDATE, side: str = TEST) -> Scores:
        """Return the scores of a model, computed from the values of its rows.

        Args:
            model: `CANDIDATE` or `REFERENCE`.
            side: `TEST` or `FOLD`.

        Raises:
            UserError: No row is of that side.
        """
        rows = self.table[self.table["side"] == side]
        if rows.empty:
            sides = ", ".join(sorted(set(self.table["side"]))) or "no rows"
            raise UserError(
                f"side must be one that the rows of run {self.run.run_id} have ({sides}), "
                f"got {side!r}. Name another one, or another run."
            )

        values = {name: rows[model + name].to_numpy() for name in self.value_names}
        logged = self.run.reference_metrics if model else self.run.metrics
        # Not every metric follows from the values of single rows.
        known = [name for name in logged if is_metric(name) and values.keys() >= _reads(name)]
        scores = scores_from(values, self.run.metric, *known)

        # The corpus of a fold is another one in each of them.
        is_test = side == TEST
        clusters = rows["cluster"].tolist()
        return replace(
            scores,
            row_ids=rows["row_id"].tolist(),
            clusters=None if None in clusters else clusters,
            documents=self.run.documents if is_test else None,
            corpus=self.run.corpus if is_test else self.run.fold_corpus,
            scored_rows=self.run.scored_rows if is_test else None,
            side_rows=self.run.side_rows if is_test else None,
        )


def is_reserved(name: str) -> bool:
    """Tell whether a column of that name has a meaning of its own in the file."""
    return name in _IDENTITY or is_metric(name) or name.startswith(REFERENCE)


def example_table(
    after: Scores,
    before: Scores,
    details: pd.DataFrame,
    *,
    side: str = TEST,
    folds: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Return the lines of the file for the examples of two models' scores.

    Args:
        after: Scores of the candidate.
        before: Scores of the version to beat, on the same rows in the same order.
        details: What is known of the rows, at least `text_hash`, with their ids as the index.
        side: `TEST` or `FOLD`.
        folds: The fold of each example.
    """
    row_ids = after.row_ids
    # Scores that don't name their rows, as a family of somebody else's may give, have no details.
    known = details.reindex(pd.Index([None] * after.examples if row_ids is None else row_ids))
    columns: dict[str, Any] = {
        "side": [side] * after.examples,
        "fold": [None] * after.examples if folds is None else list(folds),
        "row_id": [None] * after.examples if row_ids is None else list(row_ids),
        "text_hash": known["text_hash"].tolist(),
        "cluster": [None] * after.examples if after.clusters is None else list(after.clusters),
    }
    columns |= known.drop(columns="text_hash").to_dict("series")

    # After the details: what a metric counted goes before the length of the whole row.
    columns |= after.per_example
    columns |= {REFERENCE + name: values for name, values in before.per_example.items()}
    return _typed(_arrow_table(columns))


def join_tables(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the lines of several tables of example rows as one; what a table lacks is absent."""
    # Permissive: a column that is empty in one table has no type there.
    joined = pa.concat_tables(map(_arrow_table, tables), promote_options="permissive")
    return _typed(joined)


def write_example_rows(rows: ExampleRows, path: Path) -> None:
    """Write the rows to a Parquet file that only its owner can read."""
    table = _arrow_table(rows.table)
    description = json.dumps(plain_values(rows.run), ensure_ascii=False)
    # Before anything is in it: it may hold what a model wrote, and the user's own columns.
    path.touch(mode=0o600)
    pq.write_table(table.replace_schema_metadata({_METADATA_KEY: description}), path)


def read_example_rows(path: Path) -> ExampleRows:
    """Return the rows of a Parquet file.

    Raises:
        UserError: It is missing or broken, or `write_example_rows` didn't write it.
    """
    try:
        table = pq.read_table(path)
        description = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        run = _run_of(description)
        metric_named(run.metric)
    # pyarrow's errors are ValueErrors or OSErrors; a file of another origin lacks our metadata.
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} must be the rows of an evaluation, got {first_line(error)}. "
            "Train again to have them written."
        ) from error
    return ExampleRows(run=run, table=_typed(table))


def _run_of(description: Mapping[str, Any]) -> ScoredRun:
    """Return the description of a file; keys of later versions are ignored."""
    names = [field.name for field in fields(ScoredRun)]
    known = {name: description[name] for name in names if name in description}
    return ScoredRun(**{**known, "own_columns": tuple(known.get("own_columns", ()))})


def _reads(metric: str) -> set[str]:
    return set(metric_named(metric).reads)


def _arrow_table(columns: Any) -> pa.Table:
    """Return a frame, or columns by name, as an Arrow table."""
    return pa.table({str(name): _arrow_array(name, values) for name, values in columns.items()})


def _arrow_array(name: str, values: Any) -> pa.Array:
    """Return a column as an Arrow array; absent values are null, but a NaN among floats stays."""
    if getattr(values, "dtype", None) == np.float64:
        return pa.array(np.asarray(values), pa.float64())
    # As pandas' objects, so that NaN among texts is absent, and integers may be absent as well.
    if not isinstance(values, pd.Series):
        values = pd.Series(list(values), dtype=object)
    return pa.array(values, _IDENTITY.get(name))


def _typed(table: pa.Table) -> pd.DataFrame:
    """Return an Arrow table as a frame whose dtypes don't depend on which values are absent."""
    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_integer(column.type):
            columns[name] = pd.array(column.to_pylist(), dtype="Int64")
        elif pa.types.is_floating(column.type):
            columns[name] = column.to_numpy()
        else:
            columns[name] = pd.Series(column.to_pylist(), dtype=object)
    return pd.DataFrame(columns)
