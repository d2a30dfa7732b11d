from typing import Any

import pytest

from tunetrail.cli.report import print_results


def results(**comparison: Any) -> dict[str, Any]:
    numbers = {"metric": "ndcg_at_10", "higher_is_better": True, "before": 0.5, "after": 0.625, "improvement": 0.125}
    return {
        "results": {
            "steps": {
                "comparison": {"embedding": {**numbers, "lower": 0.05, "upper": 0.2, "against": "base", **comparison}},
                "deployment": {
                    "embedding": {
                        "name": "embedding", "version": "3", "promote": True, "decision": "promoted", "reason": "it is better",
                    }
                },
            }
        }
    }  # fmt: skip


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def cells(printed: str) -> list[str]:
    (row,) = [line for line in printed.splitlines() if line.startswith("│")]
    return [cell.strip() for cell in row.split("│")[1:-1]]


def test_print_results_shows_one_line_per_model_type(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(results(), "sqlite:///mlflow.db")
    printed = capsys.readouterr().out
    assert cells(printed) == [
        "embedding", "ndcg_at_10 ↑", "0.5000 (base)", "0.6250", "+0.1250", "[+0.0500, +0.2000]", "promoted", "embedding 3 = root",
    ]  # fmt: skip
    assert "embedding: it is better" in printed and printed.endswith("Compare the runs: tunetrail ui\n")


def test_print_results_names_the_root_that_it_was_compared_with(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(results(against="models:/embedding/2", higher_is_better=False), "http://host:5000")
    printed = capsys.readouterr().out
    assert cells(printed)[1:3] == ["ndcg_at_10 ↓", "0.5000 (embedding/2)"]
    assert printed.endswith("tunetrail ui --uri http://host:5000\n")


def test_print_results_shows_a_comparison_without_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    """With fewer than six test examples there is none."""
    print_results(results(lower=None, upper=None), "sqlite:///mlflow.db")
    assert cells(capsys.readouterr().out)[3:5] == ["0.6250", "+0.1250"]


def test_print_results_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    print_results(results(), "postgresql+psycopg://user:secret@host/mlflow")
    assert "secret" not in capsys.readouterr().out
