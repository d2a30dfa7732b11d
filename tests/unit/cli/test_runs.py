import json
from pathlib import Path

import pytest
from tests.commands import CallMain

from tunetrail.config import TrackingConfig
from tunetrail.stores.tracking.tracker import Tracker


@pytest.fixture
def store(workplace: Path) -> str:
    """The URI of a store with two trainings that were scored on different rows."""
    uri = f"sqlite:///{workplace}/mlflow.db"
    tracker = Tracker(TrackingConfig(uri=uri, artifacts=str(workplace / "mlartifacts")))
    for name, score, digest in (("[b]first[/b]", 0.5, "aaaa1111"), ("second", 0.75, "bbbb2222")):
        run = tracker.start_run(
            name, tags={"tunetrail.training_run": "t", "tunetrail.test_rows": digest}
        )
        run.log_params({"embedding.training.learning_rate": 3e-5})
        run.log_metrics({"embedding/after": score})
        run.finish("succeeded")
    return uri


def test_runs_lists_the_newest_first_and_warns_of_different_test_rows(
    call_main: CallMain, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")

    result = call_main("runs", "--uri", store, "--columns", "after,learning_rate")

    assert result.exit_code == 0, result.err
    lines = result.out.splitlines()
    first = next(index for index, line in enumerate(lines) if "[b]first[/b]" in line)
    second = next(index for index, line in enumerate(lines) if "second" in line)
    assert second < first
    assert "0.7500" in lines[second] and "bbbb2222" in lines[second]
    assert "compare scores of equal test_rows only" in result.out


@pytest.mark.parametrize("width", [60, 100])
def test_runs_fit_a_narrow_terminal(
    call_main: CallMain, store: str, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))

    result = call_main("runs", "--uri", store, "--columns", "learning_rate")

    lines = result.out.splitlines()
    (second,) = [line for line in lines if "second" in line]
    # Nothing is cut off: what has no room is named.
    assert "succeeded" in second and ("bbbb2222" in second) is (width == 100)
    assert ("no room for" in result.out) is (width == 60)
    table = lines[: lines.index(next(line for line in lines if "[b]first[/b]" in line)) + 1]
    assert all(len(line) <= width for line in table)


def test_runs_of_equal_test_rows_need_no_warning(call_main: CallMain, store: str) -> None:
    result = call_main("runs", "--uri", store, "--where", "test_rows=bbbb2222")

    assert "second" in result.out and "first" not in result.out
    assert "compare scores" not in result.out


def test_runs_are_sorted_limited_and_printed_as_json(call_main: CallMain, store: str) -> None:
    result = call_main("runs", "--uri", store, "--sort", "after", "--limit", "1", "--json")

    printed = json.loads(result.out)
    (run,) = printed["runs"]
    assert printed["total"] == 2
    assert (run["name"], run["metrics"]) == ("[b]first[/b]", {"embedding/after": 0.5})
    assert run["params"] == {"embedding.training.learning_rate": "3e-05"}
    assert run["state"] == "succeeded" and run["tags"]["tunetrail.test_rows"] == "aaaa1111"


def test_runs_says_how_many_it_hides(call_main: CallMain, store: str) -> None:
    assert "1 more; --limit 0 lists all" in call_main("runs", "--uri", store, "--limit", "1").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort", "afer"], "--sort must name a fact, setting or metric of the listed runs"),
        (["--columns", "zzz"], "--columns must name a fact, setting or metric"),
        (["--where", "after~1"], "--where must be KEY=VALUE"),
        (["--limit", "-1"], "--limit must be 0 or more, got -1"),
        (["--experiment", "tunetrial"], "--experiment must be one of tunetrail, got"),
    ],
)
def test_runs_refuses_what_it_does_not_know_in_one_line(
    call_main: CallMain, store: str, arguments: list[str], message: str
) -> None:
    result = call_main("runs", "--uri", store, *arguments)

    assert result.exit_code == 2 and result.error_line.startswith(f"error: {message}")


def test_runs_makes_no_store(call_main: CallMain, workplace: Path) -> None:
    result = call_main("runs", "--uri", "sqlite:///absent.db")

    assert result.exit_code == 2 and "there is no such file" in result.error_line
    assert not (workplace / "absent.db").exists()


def test_runs_of_a_store_without_trainings_says_so(call_main: CallMain, workplace: Path) -> None:
    result = call_main("runs", "--uri", f"sqlite:///{workplace}/mlflow.db")

    assert result.exit_code == 2
    assert result.error_line == (
        f"error: --experiment must be one of the store sqlite:///{workplace}/mlflow.db, got "
        "'tunetrail': nothing was trained with this store yet. Train first, or name another one "
        "with --uri."
    )
