from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tunetrail.config import CheckConfig, LabelChecksConfig, ValidationConfig, VectorChecksConfig
from tunetrail.data.checks.session_checks import (
    SessionFacts,
    SessionFindings,
    check_facts,
)


def facts(rows: int, languages: Sequence[str | None] | None = None, **more: Any) -> SessionFacts:
    ids = np.arange(1, rows + 1, dtype=np.int64)
    return SessionFacts(
        row_ids=ids, languages=languages or [None] * rows, timestamps=[None] * rows, **more
    )


def flagged(findings: SessionFindings, check: str) -> list[int]:
    return [row_id for row_id, name, _ in findings.flags if name == check]


@pytest.mark.parametrize(
    ("languages", "language", "expected"),
    [
        (["en", "en", "de", None], "auto", [3]),
        (["en", "en", "de", None], "de", [1, 2]),
        (["en", "de"], "auto", []),  # no language is that of most rows
        ([None, None], "en", []),
    ],
)
def test_check_facts_flags_rows_in_another_language(
    languages: list[str | None], language: str, expected: list[int]
) -> None:
    findings = check_facts(facts(len(languages), languages), ValidationConfig(language=language))
    assert flagged(findings, "rows.language") == expected


def test_check_facts_flags_scores_off_the_scale() -> None:
    scores = np.array([0.5] * 30 + [1.5])

    assert flagged(
        check_facts(facts(31, scores=scores), ValidationConfig()), "labels.score_range"
    ) == [31]

    bounded = ValidationConfig(labels=LabelChecksConfig(minimum_score=1.0, maximum_score=2.0))
    assert flagged(check_facts(facts(31, scores=scores), bounded), "labels.score_range") == list(
        range(1, 31)
    )


def test_check_facts_flags_vectors_of_another_size() -> None:
    dimensions = np.array([4, 4, 3])

    assert flagged(
        check_facts(facts(3, dimensions=dimensions), ValidationConfig()), "vectors.dimension"
    ) == [3]

    asked = ValidationConfig(vectors=VectorChecksConfig(dimensions=3))
    assert flagged(check_facts(facts(3, dimensions=dimensions), asked), "vectors.dimension") == [
        1,
        2,
    ]


def test_check_facts_checks_labels() -> None:
    labels = ["praise"] * 150 + ["question"] * 100 + ["prasie"]
    findings = check_facts(facts(251, labels=labels), ValidationConfig())
    assert flagged(findings, "labels.unknown_label") == [251]
    assert findings.measures["labels.imbalance"] == 150.0
    assert findings.notes["labels.imbalance"] == "'praise' has 150 rows, 'prasie' 1"


def test_check_facts_runs_no_check_that_is_off() -> None:
    config = ValidationConfig()
    off = CheckConfig(severity="off")
    config.rows.language = config.labels.score_range = config.labels.unknown_label = (
        config.labels.imbalance
    ) = off
    config.vectors.dimension = off
    everything = facts(
        3,
        ["en", "en", "de"],
        scores=np.array([0, 0, 99.0]),
        labels=["a"] * 3,
        dimensions=np.array([1, 1, 2]),
    )

    findings = check_facts(everything, config)

    assert findings.flags == [] and findings.measures == {}
