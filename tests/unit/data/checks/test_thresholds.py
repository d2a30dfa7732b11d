import pytest

from tunetrail.config import CheckConfig, ValidationConfig
from tunetrail.data.checks.catalog import CHECKS, active_checks
from tunetrail.data.checks.results import CheckResult
from tunetrail.data.checks.session_checks import SessionFindings
from tunetrail.data.checks.thresholds import (
    EXAMPLES,
    check_results,
    stop_reason,
    with_examples,
)

FLAGS = [
    (1, "rows.empty", "anchor is empty"),
    (2, "rows.empty", "anchor is empty"),
    (3, "rows.language", "is in 'de'"),
]


def test_active_checks_names_every_check_that_is_on() -> None:
    config = ValidationConfig()
    config.rows.outlier = CheckConfig(severity="off")
    names = [check.name for check in active_checks(config)]
    assert set(names) == set(CHECKS) - {"rows.outlier"}
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("rows", "severity"), [(3, "error"), (4, "passed")])
def test_check_results_holds_the_share_against_the_threshold(rows: int, severity: str) -> None:
    by_check = {
        result.check: result
        for result in check_results(
            ValidationConfig(), FLAGS, SessionFindings(), rows, {"pair": rows}
        )
    }

    empty = by_check["rows.empty"]
    assert (empty.severity, empty.rows, empty.judged, empty.row_ids) == (severity, 2, rows, (1, 2))
    assert empty.measure == pytest.approx(2 / rows) and "anchor is empty (2)" in empty.message
    assert by_check["rows.language"].severity == "warning"


def test_check_results_counts_a_row_once_however_often_it_is_flagged() -> None:
    results = check_results(ValidationConfig(), FLAGS + FLAGS, SessionFindings(), 10, {"pair": 10})
    assert next(result for result in results if result.check == "rows.empty").rows == 2


def test_check_results_leaves_out_what_does_not_apply() -> None:
    names = {
        result.check
        for result in check_results(ValidationConfig(), [], SessionFindings(), 5, {"pair": 5})
    }

    assert not names & {
        "labels.score_range",
        "vectors.dimension",
        "conversations.turn_order",
        "drift.length",
    }

    for shape in ("completion", "preference"):
        names = {
            result.check
            for result in check_results(ValidationConfig(), [], SessionFindings(), 5, {shape: 5})
        }
        assert "conversations.truncated_output" in names


def test_check_results_takes_measures_of_the_session() -> None:
    findings = SessionFindings(
        measures={"labels.imbalance": 40.0, "drift.length": 0.1},
        notes={"labels.imbalance": "'a' has 40 rows, 'b' 1"},
    )

    by_check = {
        result.check: result
        for result in check_results(ValidationConfig(), [], findings, 41, {"label": 41})
    }

    assert (
        by_check["labels.imbalance"].severity == "warning"
        and "'a' has 40 rows" in by_check["labels.imbalance"].message
    )
    assert by_check["drift.length"].severity == "passed"


def test_stop_reason_names_every_error_and_the_way_out() -> None:
    results = check_results(ValidationConfig(), FLAGS, SessionFindings(), 3, {"pair": 3})
    reason = stop_reason(results)

    assert reason is not None and reason.startswith(
        "validation found 1 error: rows.empty: 2 of 3 rows"
    )
    assert "validation.rows.empty.threshold" in reason
    assert (
        stop_reason(check_results(ValidationConfig(), [], SessionFindings(), 3, {"pair": 3}))
        is None
    )


def test_with_examples_shows_the_first_rows_and_their_details() -> None:
    flags = [(row_id, "rows.encoding", f"detail {row_id}") for row_id in range(1, 10)]
    results = check_results(ValidationConfig(), flags, SessionFindings(), 100, {"text": 100})

    shown = with_examples(results, {row_id: f"text {row_id}" for row_id in range(2, 10)}, flags)

    examples = next(result for result in shown if result.check == "rows.encoding").examples
    assert [(example.row_id, example.text, example.detail) for example in examples] == [
        (row_id, f"text {row_id}", f"detail {row_id}") for row_id in range(2, EXAMPLES + 1)
    ]


@pytest.mark.parametrize(("rows", "severity"), [(4, "warning"), (3, "error")])
def test_a_template_without_a_form_for_most_rows_is_an_error(rows: int, severity: str) -> None:
    flags = [(row, "conversations.unlearnable", "tools are dropped") for row in (1, 2)]
    config = ValidationConfig()

    def unlearnable() -> CheckResult:
        results = check_results(config, flags, SessionFindings(), rows, {"chat": rows})
        return next(result for result in results if result.check == "conversations.unlearnable")

    assert unlearnable().severity == severity
    if severity == "error":
        reason = stop_reason([unlearnable()])
        assert reason is not None and "(allowed: 0.5)" in reason
        assert "raise validation.conversations.unlearnable.threshold" in reason
        config.conversations.unlearnable.threshold = 0.7
        assert unlearnable().severity == "passed"
