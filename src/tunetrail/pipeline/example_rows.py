"""Example rows of a run: what is known of its held-out rows, and the file of their scores."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import PrivacyConfig
from tunetrail.data.privacy.scrubber import Scrubber
from tunetrail.data.rows import object_series, texts_of_rows
from tunetrail.data.splits import Split
from tunetrail.evaluation.embedding_map import (
    MAP_ARTIFACT,
    MOST_ROWS,
    embedding_map,
    write_embedding_map,
)
from tunetrail.evaluation.example_rows import (
    FOLD,
    ROWS_ARTIFACT,
    ExampleRows,
    ScoredRun,
    example_table,
    is_reserved,
    join_tables,
    write_example_rows,
)
from tunetrail.evaluation.fold_gain import OutOfFold
from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.slices import EMBEDDING_CLUSTER, embedding_clusters
from tunetrail.fingerprints import value_fingerprint
from tunetrail.pipeline.stage_context import StageContext
from tunetrail.samples import shape_named
from tunetrail.samples.values import is_finite_number

RowVectors = Callable[[Sequence[str]], npt.NDArray[Any]]
"""Takes texts; returns vectors of them, [texts, dimensions]."""

FOLDER, _, FILE = ROWS_ARTIFACT.partition("/")

# A column of longer texts is content: it divides rows into no groups, and may hold anything.
_LONGEST_VALUE = 100
_KNOWN_COLUMNS = ("group", "label", "timestamp", "language", "characters")


def log_example_rows(
    context: StageContext,
    split: Split,
    vectors: RowVectors,
    reference_vectors: RowVectors | None = None,
    *,
    after: Scores,
    before: Scores,
    against: str,
    out_of_fold: OutOfFold | None = None,
) -> ExampleRows:
    """Write `evaluation/rows.parquet` to the run: the scores of both models on every held-out row.

    Args:
        context: The run.
        split: The sides of its rows.
        vectors: The candidate, as it reads texts.
        reference_vectors: The version to beat, as it reads texts; without it, there is no map.
        after: Scores of the candidate on the test side.
        before: Scores of the version to beat on the test side.
        against: The URI of that version, or `base`.
        out_of_fold: Scores of the folds' held-out rows, if there are any.
    """
    taken = {*after.per_example, *before.per_example}
    details, own_names = _details_of(context, split.test, taken)
    # Only of rows that were scored, since a cluster is called after one of them.
    if after.row_ids is not None:
        scored = split.test[split.test["row_id"].isin(list(after.row_ids))]
        texts, row_ids = _query_texts(scored), scored["row_id"].tolist()
        scored_vectors = vectors(texts)
        clusters = embedding_clusters(scored_vectors, row_ids, context.settings.seed)
        if clusters is not None:
            details[EMBEDDING_CLUSTER] = pd.Series(clusters, row_ids)
        if reference_vectors is not None:
            _log_embedding_map(context, texts, row_ids, reference_vectors, scored_vectors)
    tables = [example_table(after, before, details)]

    # The folds' models and the base model have held out the train side.
    if out_of_fold is not None:
        details, _ = _details_of(context, split.train, taken)
        old, new, folds = out_of_fold.before, out_of_fold.after, out_of_fold.folds
        tables.append(example_table(new, old, details, side=FOLD, folds=folds))

    scored_run = ScoredRun(
        model_type=context.model_type,
        # A language model learns from several shapes at once.
        shape=", ".join(sorted(set(split.test["shape"]))),
        metric=after.metric,
        against=against,
        run_id=context.run.run_id,
        metrics=after.metrics,
        reference_metrics=before.metrics,
        documents=after.documents,
        corpus=after.corpus,
        fold_corpus=None if out_of_fold is None else out_of_fold.after.corpus,
        own_columns=tuple(own_names),
        scored_rows=after.scored_rows,
        side_rows=after.side_rows,
    )
    example_rows = ExampleRows(run=scored_run, table=join_tables(tables))

    # In the run's folder, which goes when the run has succeeded.
    path = context.state.folder / FILE
    write_example_rows(example_rows, path)
    context.run.log_artifact(path, FOLDER)
    return example_rows


def _log_embedding_map(
    context: StageContext,
    texts: Sequence[str],
    row_ids: Sequence[int],
    reference_vectors: RowVectors,
    vectors: npt.NDArray[Any],
) -> None:
    """Write where both models put the rows in a plane, of at most as many rows as a map shows."""
    # By their content, so that the same rows are on the maps of later runs.
    digests = list(map(value_fingerprint, texts))
    chosen = np.sort(np.argsort(np.array(digests), kind="stable")[:MOST_ROWS])
    before = reference_vectors([texts[position] for position in chosen])
    mapped = embedding_map(before, vectors[chosen], [row_ids[position] for position in chosen])
    if mapped is None:
        return

    path = context.state.folder / Path(MAP_ARTIFACT).name
    write_embedding_map(mapped, path)
    context.run.log_artifact(path, FOLDER)


def _details_of(
    context: StageContext, rows: pd.DataFrame, taken: Collection[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Return `row_details` of rows, with the user's own columns from where the run reads them."""
    own_columns = context.history.read_own_columns(rows["row_id"].tolist())
    return row_details(rows, own_columns, context.settings.cleaning.privacy, taken)


def _query_texts(rows: pd.DataFrame) -> list[str]:
    """Return what a model is asked in each row: its first text, or all turns of a conversation."""
    has_query = rows["shape"].map(lambda name: bool(shape_named(name).texts))
    queries = []
    for texts, is_query in zip(texts_of_rows(rows), has_query, strict=True):
        queries.append(texts[0] if is_query else "\n".join(texts))
    return queries


def row_details(
    rows: pd.DataFrame,
    own_columns: Mapping[int, Mapping[str, Any]],
    privacy: PrivacyConfig,
    taken: Collection[str] = (),
) -> tuple[pd.DataFrame, list[str]]:
    """Return what is known of rows, by row id, and the names of the user's own columns in it.

    The texts of the rows are only there as a hash, by which equal texts are recognised in any
    session. A column of the user's whose name is taken is called `own_NAME`.

    Args:
        rows: Rows of one side.
        own_columns: Further columns of each row, by row id.
        privacy: The personal data that is replaced in these columns and in groups.
        taken: Names that stand for something else, such as the metrics.
    """
    row_texts = texts_of_rows(rows)
    mask = Scrubber(privacy).mask
    details = pd.DataFrame(index=pd.Index(rows["row_id"], name="row_id"))
    details["text_hash"] = list(map(value_fingerprint, row_texts))
    details["bytes"] = [len("".join(texts).encode()) for texts in row_texts]
    for name in _KNOWN_COLUMNS:
        if name in rows and rows[name].notna().any():
            details[name] = rows[name].set_axis(details.index)
    # A group may be called after a user. A label is a class that the model learns, and stays.
    if "group" in details:
        details["group"] = _masked_values(details["group"].tolist(), mask).set_axis(details.index)
    # Uncounted tokens are -1.
    if "token_count" in rows and (rows["token_count"] >= 0).all():
        details["tokens"] = rows["token_count"].to_numpy()

    own_names = []
    own_of_row = [own_columns.get(row_id, {}) for row_id in rows["row_id"]]
    for name in dict.fromkeys(chain.from_iterable(own_of_row)):
        values = _own_values([own.get(name) for own in own_of_row], mask)
        if values is None:
            continue
        is_taken = name in taken or name in details or is_reserved(name)
        own_names.append(f"own_{name}" if is_taken else name)
        details[own_names[-1]] = values.set_axis(details.index)
    return details, own_names


def _own_values(values: list[Any], mask: Callable[[str], str]) -> pd.Series | None:
    """Return the values of a user's column as numbers or as texts; None if it divides no rows."""
    present = [value for value in values if value is not None]
    is_nested = any(isinstance(value, list | dict) for value in present)
    if not present or is_nested or max(len(str(value)) for value in present) > _LONGEST_VALUE:
        return None

    if all(map(is_finite_number, present)):
        return pd.Series(values, dtype=np.float64)

    return _masked_values(values, mask)


def _masked_values(values: Sequence[Any], mask: Callable[[str], str]) -> pd.Series:
    """Return values as texts without personal data; None stays.

    Different values stay different, as they divide the rows into slices: the second address is
    called `[EMAIL] 2`.
    """
    shown: dict[Any, str | None] = {None: None}
    same_masks: Counter[str] = Counter()
    # Each different value once: personal data is searched by many patterns.
    for value in sorted({value for value in values if value is not None}, key=str):
        text = mask(str(value))
        if text != str(value):
            same_masks[text] += 1
            text = text if same_masks[text] == 1 else f"{text} {same_masks[text]}"
        shown[value] = text
    return object_series([shown[value] for value in values])
