from collections.abc import Sequence
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from tunetrail.config import ValidationConfig
from tunetrail.data.checks import vector_checks
from tunetrail.data.checks.vector_checks import check_vectors, measure_drift
from tunetrail.data.rows import rows_frame
from tunetrail.samples import Sample, SampleKind


def frame(texts: Sequence[str], **more: str) -> Any:
    shape = "label" if more else "text"
    return rows_frame(
        (row_id, Sample(kind=SampleKind.EMBEDDING, shape=shape, content={"text": text, **more}))
        for row_id, text in enumerate(texts, start=1)
    )


def test_check_vectors_needs_enough_rows_to_know_what_is_usual() -> None:
    rows = frame(["text"] * 10, label="a").assign(cluster="c")
    findings = check_vectors(rows, np.eye(10, dtype=np.float32), ValidationConfig(), seed=0)

    assert findings.flags == [] and findings.rows_checked == {
        "rows.outlier": 10,
        "labels.mislabelled": 10,
    }


def test_measure_drift_measures_what_differs_and_nothing_among_few_rows() -> None:
    short, long = (
        frame(["two words"] * 40),
        frame(["many other words, again and again and again"] * 40),
    )

    findings = measure_drift(long, short, None, None, ValidationConfig(), seed=0)

    assert findings.measures["drift.length"] == 1.0 and "drift.embedding" not in findings.measures
    assert findings.rows_checked == {"drift.length": 40, "drift.vocabulary": 40}
    assert measure_drift(long, short[:20], None, None, ValidationConfig(), seed=0).measures == {}


def test_numeric_libraries_compute_on_one_thread_of_blas() -> None:
    with vector_checks._quiet_numerics():
        threads = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    # Of NumPy and of SciPy, which bring a library each: both were imported before.
    assert threads == {1}
