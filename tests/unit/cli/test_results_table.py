from typing import Any

import pytest
from tests.results import training_results

from tunetrail.cli.results_table import print_results
from tunetrail.evaluation.metric import Metric
from tunetrail.evaluation.metrics import METRICS


def results(**comparison: Any) -> dict[str, Any]:
    return training_results(comparison=comparison)


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def row(printed: str) -> str:
    return next(
        " ".join(line.split())
        for line in printed.splitlines()
        if line.strip().startswith("embedding ")
    )


def test_print_results_shows_one_line_per_model_type(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(results(), "sqlite:///mlflow.db")
    printed = capsys.readouterr().out

    assert row(printed) == "embedding nDCG@10 ↑ 0.5000 0.6250 +0.0500 … +0.2000 promoted 3 = root"
    assert (
        "embedding: before is the base model; 95% interval over 40 test rows; it is better"
        in printed
    )
    assert printed.rstrip().endswith(" ui")


@pytest.mark.parametrize("width", [40, 60, 79])
def test_print_results_cuts_nothing_off_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))

    print_results(results(), "sqlite:///mlflow.db")

    printed = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    expected = (
        ["improvement +0.0500 … +0.2000", "decision promoted", "version 3 = root"]
        if width < 78
        else ["embedding nDCG@10 ↑ 0.5000 0.6250 +0.0500 … +0.2000 promoted 3 = root"]
    )
    assert set(expected) <= set(lines)


def test_print_results_says_what_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    found = results()
    metrics = {
        "exact_match": {"before": 0.0, "after": 0.5, "after_interval": [0.3, 0.7]},
        "chrf": {"before": 0.1, "after": 0.25},
    }
    summary = {"answers": 20, "metrics": metrics}
    found["results"]["steps"]["evaluation"]["embedding"]["generation"] = summary

    print_results(found, "sqlite:///mlflow.db")

    assert (
        "embedding: 20 answers written: exact match 0.000 -> 0.500 [0.300, 0.700], "
        "chrF 0.100 -> 0.250 (artifact answers.json)"
    ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("uri", "report", "is_told"),
    [
        ("http://host:5000", "http://host:5000/#/experiments/1/runs/1/artifacts/report.html", True),
        ("sqlite:///mlflow.db", "mlartifacts/report.html", False),
        ("http://host:5000", None, False),
    ],
)
def test_print_results_says_how_to_get_the_report_of_a_server(
    uri: str, report: str | None, is_told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    print_results(results(), uri, report, run_id="0123456789abcdef")

    told = f"Report as a file in this folder: tunetrail report 01234567 --uri {uri}\n"
    assert (told in capsys.readouterr().out) is is_told


def test_print_results_names_the_root_and_the_store(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(
        results(against="models:/embedding/2", metric="bits_per_byte"), "http://host:5000"
    )
    printed = capsys.readouterr().out

    assert "bits/byte ↓" in row(printed) and "before is models:/embedding/2" in printed
    assert printed.endswith("Compare the runs: http://host:5000\n")


@pytest.mark.parametrize("metric", list(METRICS.values()), ids=list(METRICS))
def test_print_results_labels_every_metric(
    metric: Metric, capsys: pytest.CaptureFixture[str]
) -> None:
    print_results(results(metric=metric.name), "sqlite:///mlflow.db")

    arrow = "↑" if metric.higher_is_better else "↓"
    assert f"embedding {metric.label} {arrow} 0.5000" in row(capsys.readouterr().out)


def test_print_results_shows_a_comparison_without_an_interval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If fewer than six rows differ, there is none."""
    print_results(results(lower=None, upper=None, differing=2), "sqlite:///mlflow.db")
    assert "0.6250 2 rows changed promoted" in row(capsys.readouterr().out)

    # As the first versions wrote it, without the number of rows that differ.
    print_results(results(lower=None, upper=None), "sqlite:///mlflow.db")
    assert "0.6250 too few rows promoted" in row(capsys.readouterr().out)


def test_print_results_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(results(), "postgresql+psycopg://user:secret@host/mlflow")
    assert "secret" not in capsys.readouterr().out


def test_print_results_counts_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(results(clusters=12), "sqlite:///mlflow.db")
    assert "95% interval over 40 test rows in 12 groups" in capsys.readouterr().out


LINE = {
    "attribute": "source",
    "value": "web",
    "rows": 41,
    "after": 0.61,
    "improvement": -0.12,
    "corrected_lower": -0.2,
    "corrected_upper": -0.05,
    "gap": -0.21,
}
ERRORS = {
    "rule": "a right document comes first",
    "fixed": 12,
    "broken": 3,
    "wrong": 4,
    "slices": 23,
}


@pytest.mark.parametrize(
    ("worst", "weakest", "words"),
    [
        (
            LINE,
            {**LINE, "attribute": "embedding_cluster", "value": "17"},
            "of 23 slices, the worst change is -0.1200 (-0.2000 … -0.0500) where source is web "
            "(41 rows); the weakest has 0.6100, -0.2100 from all rows, where texts are near row 17",
        ),
        (
            {**LINE, "corrected_lower": None, "corrected_upper": None, "value": "a\x1b[31mb"},
            LINE,
            "the worst change is -0.1200 where source is a",
        ),
        (None, None, "too few rows for slices"),
    ],
)
def test_print_results_says_what_was_fixed_and_where_it_is_worst(
    worst: Any, weakest: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = {**ERRORS, "worst_slice": worst, "weakest_slice": weakest}

    print_results(results(error_analysis=errors), "sqlite:///mlflow.db")

    printed = capsys.readouterr().out
    assert (
        "embedding: 12 rows fixed, 3 broken, 4 still wrong (a row is right if a right document "
        "comes first); "
    ) in printed
    assert words in printed and "\x1b" not in printed


def test_print_results_names_the_earlier_session_with_the_worst_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = results()["results"]["steps"]["comparison"]["embedding"]
    counts = {"scored_rows": 45, "side_rows": 50, "left_out_rows": 5, "examples": 45}
    changes = {
        "may": {**measured, "improvement": 0.01},
        "june": {**measured, **counts, "improvement": -0.03, "lower": -0.05, "upper": -0.01},
    }

    print_results(results(earlier_sessions=changes), "sqlite:///mlflow.db")

    assert (
        "embedding: on the test rows of earlier sessions (2), the worst change is "
        "-0.0300 (-0.0500 … -0.0100) on june, over 45 of 50 test rows (5 left out, as root knows "
        "near-duplicates)" in capsys.readouterr().out
    )


def test_print_results_says_what_became_of_the_general_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = results()["results"]["steps"]["comparison"]["embedding"]
    counts = {"scored_rows": 288, "side_rows": 300, "left_out_rows": 12}
    change = {**measured, **counts, "improvement": -0.01, "lower": -0.02, "upper": 0.01}

    print_results(results(general_set={"general.jsonl": change}), "sqlite:///mlflow.db")

    assert (
        "embedding: on 288 of 300 rows of the general set general.jsonl (12 left out, as "
        "near-duplicates are learnt from), the change is -0.0100 (-0.0200 … +0.0100)"
    ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("/venv/lib/tunetrail/__main__.py", "python -m tunetrail ui"),
        ("/venv/bin/tunetrail", "/venv/bin/tunetrail ui"),
        ("tunetrail", "tunetrail ui"),
    ],
)
def test_print_results_names_a_command_that_can_be_typed(
    name: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [name, "train"])

    print_results(results(), "sqlite:///mlflow.db")

    assert capsys.readouterr().out.rstrip().endswith(f"Compare the runs: {command}")
