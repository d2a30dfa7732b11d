import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tunetrail.cli import main
from tunetrail.cli.prepare import account_lines
from tunetrail.data.checks.results import CheckResult
from tunetrail.data.flow.prepared import PreparedSession


def sentence(n: int) -> str:
    return f"Sample number {n} speaks of {'abcdefghij'[n % 10] * 5} and of {n * 7919} other things."


@pytest.fixture
def session(workplace: Path, tiny_embedding_model: str) -> list[str]:
    """The arguments of a prepared call on a session of 40 pairs, one of them a twin and one without a text."""
    rows = [{"anchor": sentence(n), "positive": f"Answer {n * 104729}."} for n in range(40)]
    rows += [
        rows[3],
        {"anchor": "", "positive": "x"},
        {"anchor": "Write to joe@corp.example now", "positive": "y z"},
    ]
    (workplace / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    assert main(["ingest", "rows.jsonl", "--session", "s1", "--kind", "embedding"]) == 0
    return [
        "prepare",
        "session_id=s1",
        f"embedding.model={tiny_embedding_model}",
        "preparation.cache_dir=cache",
    ]


def test_prepare_writes_the_files_and_prints_the_account(
    session: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()

    assert main([*session, "output_dir=look"]) == 0

    printed = capsys.readouterr().out
    look = workplace / "look"
    sides = {
        side: pd.read_parquet(look / "rows" / f"{side}.parquet")
        for side in ("train", "validation", "test")
    }
    set_aside = pd.read_parquet(look / "set_aside.parquet")

    assert list(set_aside.columns) == ["row_id", "step", "reason", "before", "after"]
    assert sum(map(len, sides.values())) + len(set_aside) == 43
    assert {"anchor is empty", "duplicate of row 4"} <= set(set_aside["reason"])
    assert not set(sides["train"]["cluster"]) & set(sides["test"]["cluster"])
    assert (look / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert "joe@corp.example" not in "".join(path.read_text() for path in look.glob("*.*ml"))
    for words in ("validation", "cleaning", "split", "anchor is empty", "report: look/report.html"):
        assert words in printed
    assert {path.name for path in look.iterdir()} == {
        ".tunetrail-prepared",
        "rows",
        "set_aside.parquet",
        "changes.parquet",
        "flags.parquet",
        "report.html",
        "summary.json",
    }


def test_account_leaves_out_warnings_that_the_terminal_has_shown() -> None:
    finding = CheckResult(
        check="rows.outlier",
        severity="warning",
        rows=10,
        judged=200,
        measure=0.05,
        threshold=0.02,
        set_aside=False,
        message="10 of 200 rows",
    )
    session = PreparedSession(
        folder=Path("look"),
        account=(),
        findings=(finding,),
        sides={"train": 200},
        clusters={},
        method="content",
        warnings=("few rows",),
        placeholders={},
    )
    result = ["split by content: train 200", "report: look/report.html"]

    warnings = ["warning: rows.outlier: 10 of 200 rows", "warning: split: few rows"]
    assert list(account_lines(session, 0)) == [*warnings, *result]
    assert list(account_lines(session, 0, with_warnings=False)) == result


def test_prepare_leaves_files_where_an_error_finding_stops_it(
    session: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*session, "output_dir=look", "validation.rows.empty.threshold=0.01"]) == 2
    error = capsys.readouterr().err
    assert "error: validation found 1 error: rows.empty: 1 of 43 rows" in error
    assert "See look/report.html." in error
    assert len(pd.read_parquet(workplace / "look" / "set_aside.parquet")) >= 1


def test_prepare_has_a_folder_of_its_own_by_default(session: list[str], workplace: Path) -> None:
    assert main(session) == 0
    assert (workplace / "prepared" / "s1" / "report.html").is_file()
    assert main(session) == 0  # and once more into the same folder


def test_prepare_joins_both_kinds_of_a_session(
    session: list[str], workplace: Path, tiny_language_model: str
) -> None:
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"Question {sentence(n)}"},
                {"role": "assistant", "content": sentence(n)},
            ]
        }
        for n in range(100, 130)
    ]
    (workplace / "chats.jsonl").write_text("\n".join(json.dumps(row) for row in chats))

    assert main(["ingest", "chats.jsonl", "--session", "s1", "--kind", "llm"]) == 0
    assert main([*session, f"llm.model={tiny_language_model}", "output_dir=look"]) == 0

    rows = pd.concat([pd.read_parquet(path) for path in (workplace / "look" / "rows").iterdir()])
    assert set(rows["shape"]) == {"pair", "chat"} and rows["row_id"].is_unique
    assert len(rows) + len(pd.read_parquet(workplace / "look" / "set_aside.parquet")) == 73


def test_prepare_does_without_a_model_that_is_not_there(
    session: list[str], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*session, "embedding.model=nobody/nothing", "output_dir=look"]) == 0
    assert "are not checked: model 'nobody/nothing' was not found" in capsys.readouterr().err
    assert set(pd.read_parquet(workplace / "look" / "rows" / "train.parquet")["token_count"]) == {
        -1
    }


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("session_id=none", "session_id must name a session of the database, got 'none'"),
        ("model_type=llm", "session 's1' has no llm samples"),
        ("validation.rows.empti.severity=off", "Did you mean 'validation.rows.empty.severity'?"),
        (
            "validation.rows.language.severity=loud",
            "validation.rows.language.severity must be one of error, warning, off",
        ),
        (
            "validation.rows.empty.set_aside=false",
            "validation.rows.empty must be error or warning with set_aside",
        ),
        ("cleaning.length=cut", "cleaning.length must be one of keep, truncate, drop, got 'cut'"),
        ("split.method=random", "split.method must be one of auto, content, time, got 'random'"),
        ("split.method=time", "split.method must be content if rows have no timestamp"),
        (
            "output_dir=rows.jsonl/x",
            "output_dir must be a folder that can be written, got 'rows.jsonl/x'",
        ),
        (
            "embedding.shape=label",
            "embedding.shape must fit the session's samples (pair)",
        ),
        ("preparation.engine=spark", "preparation.engine must be one of local, ray, got 'spark'"),
    ],
)
def test_prepare_says_in_one_line_what_is_wrong(
    session: list[str], capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    capsys.readouterr()
    assert main([*session, argument]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1] and lines[-1].startswith("error: ")


@pytest.mark.parametrize("options", [["--info", "config"], ["-c", "job"]])
def test_prepare_shows_the_configuration_and_makes_nothing(
    session: list[str], workplace: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    before = set(workplace.iterdir())
    assert main([*session, *options]) == 0
    assert "near_duplicate_similarity: 0.8" in capsys.readouterr().out
    assert main([session[0], *options, *session[1:]]) == 0
    assert set(workplace.iterdir()) == before


def test_prepare_makes_nothing_for_a_session_that_is_not_there(
    session: list[str], workplace: Path
) -> None:
    before = set(workplace.iterdir())
    for name in ("none", "../../outside"):
        assert main(["prepare", f"session_id={name}"]) == 2
    assert set(workplace.iterdir()) == before


def test_prepare_takes_one_session_at_a_time(
    session: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*session, "-m"]) == 2
    assert "prepare takes one session" in capsys.readouterr().err


def test_prepare_asks_for_a_session(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare"]) == 2
    assert "session_id must be given" in capsys.readouterr().err


def test_prepare_help_names_the_files_and_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--help"]) == 0
    printed = capsys.readouterr().out
    for words in ("set_aside.parquet", "Exit code", "validation ", "strict", "session_id=ID"):
        assert words in printed


@pytest.mark.processes
@pytest.mark.parametrize(
    ("overrides", "unneeded"),
    [
        # The first call has written the vectors into the cache.
        ([], {"torch", "transformers", "pytorch_lightning", "mlflow", "sklearn", "scipy"}),
        (
            ["preparation.cache_gigabytes=0", "trainer=cpu"],
            {"transformers", "sentence_transformers", "pytorch_lightning", "mlflow"},
        ),
    ],
)
def test_prepare_imports_no_library_that_its_rows_do_not_need(
    session: list[str], workplace: Path, overrides: list[str], unneeded: set[str]
) -> None:
    assert main([*session, "output_dir=first"]) == 0

    code = (
        "import sys; from tunetrail.cli import main; main(sys.argv[1:]); "
        f"print(*sorted({unneeded!r} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *session, "output_dir=second", *overrides]
    run = subprocess.run(command, cwd=workplace, capture_output=True, text=True, check=True)

    assert run.stderr.splitlines()[-1] == ""
    first, second = (
        pd.read_parquet(workplace / folder / "rows" / "train.parquet")
        for folder in ("first", "second")
    )
    pd.testing.assert_frame_equal(first, second)
