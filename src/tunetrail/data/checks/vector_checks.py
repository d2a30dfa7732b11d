"""Checks that look at a sample of rows together: outliers, wrong labels, drift.

They import scikit-learn, which takes a second: whoever may do without them imports them late.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd
from threadpoolctl import threadpool_limits

from tunetrail.config import ValidationConfig
from tunetrail.data.checks.catalog import is_active
from tunetrail.data.checks.drift import embedding_drift, length_drift, vocabulary_drift
from tunetrail.data.checks.mislabelled import mislabelled
from tunetrail.data.checks.outliers import outliers
from tunetrail.data.checks.session_checks import SessionFindings
from tunetrail.data.rows import texts_of_rows

logger = logging.getLogger(__name__)

# With fewer rows, what is usual in the session isn't known.
_FEWEST_ROWS = 50
# If either session has fewer rows, a difference means nothing.
_FEWEST_ROWS_FOR_DRIFT = 30


@contextlib.contextmanager
def _quiet_numerics() -> Iterator[None]:
    """Run numeric libraries on one BLAS thread, and log their warnings at level debug.

    The checks work on hundreds of small matrices: the threads of BLAS would wait for one another
    most of the time. What a library warns of, such as a fit that hasn't quite converged, doesn't
    tell users anything about their rows.
    """
    with warnings.catch_warnings(record=True) as caught, threadpool_limits(1, user_api="blas"):
        warnings.simplefilter("always")
        yield
    for warning in caught:
        logger.debug("%s: %s", warning.category.__name__, warning.message)


@_quiet_numerics()
def check_vectors(
    rows: pd.DataFrame, vectors: npt.NDArray[np.float32], config: ValidationConfig, seed: int
) -> SessionFindings:
    """Run the checks that need vectors: outliers and mislabelled rows.

    Args:
        rows: The sample of rows, with a `cluster` column.
        vectors: Unit vectors of their texts, [rows, dimensions].
        config: Says which of the checks are on.
        seed: For every random choice.
    """
    findings = SessionFindings()
    row_ids = rows["row_id"].tolist()
    labels = list(rows["label"]) if "label" in rows else None
    has_enough_rows = len(rows) >= _FEWEST_ROWS

    if is_active("rows.outlier", config):
        findings.rows_checked["rows.outlier"] = len(rows)
        if has_enough_rows:
            odd = np.flatnonzero(outliers(vectors, seed=seed, labels=labels))
            findings.add_rows(
                "rows.outlier", ((row_ids[index], "unlike all other rows") for index in odd)
            )

    if labels is not None and is_active("labels.mislabelled", config):
        findings.rows_checked["labels.mislabelled"] = len(rows)
        if has_enough_rows:
            result = mislabelled(vectors, labels, groups=list(rows["cluster"]), seed=seed)
            for index in np.flatnonzero(result.flagged):
                detail = f"labelled {labels[index]!r}, looks like {result.suggested[index]!r}"
                findings.add_rows("labels.mislabelled", [(row_ids[index], detail)])
    return findings


@_quiet_numerics()
def measure_drift(
    rows: pd.DataFrame,
    reference: pd.DataFrame,
    vectors: npt.NDArray[np.float32] | None,
    reference_vectors: npt.NDArray[np.float32] | None,
    config: ValidationConfig,
    seed: int,
) -> SessionFindings:
    """Measure how far the rows are from the rows of the previous session, if both have enough.

    Args:
        rows: A sample of the rows of this session.
        reference: Rows of the previous session.
        vectors: Unit vectors of the rows, [rows, dimensions]; without them or the reference's
            vectors, there is no embedding drift.
        reference_vectors: Unit vectors of the reference, [rows, dimensions].
        config: Says which of the checks are on.
        seed: For every random choice.
    """
    findings = SessionFindings()
    if min(len(rows), len(reference)) < _FEWEST_ROWS_FOR_DRIFT:
        return findings

    measures = findings.measures
    before, now = _joined_texts(reference), _joined_texts(rows)
    if is_active("drift.length", config):
        lengths_before, lengths_now = np.array([*map(len, before)]), np.array([*map(len, now)])
        measures["drift.length"] = length_drift(lengths_before, lengths_now)
    if is_active("drift.vocabulary", config):
        measures["drift.vocabulary"] = vocabulary_drift(before, now, seed=seed)
    if vectors is not None and reference_vectors is not None:
        measures["drift.embedding"] = embedding_drift(reference_vectors, vectors, seed=seed)

    findings.rows_checked.update(dict.fromkeys(measures, len(rows)))
    return findings


def _joined_texts(rows: pd.DataFrame) -> list[str]:
    return list(map("\n".join, texts_of_rows(rows)))
