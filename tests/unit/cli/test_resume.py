from pathlib import Path

import pytest
from tests.commands import CallMain


def test_resume_help_tells_what_it_takes(call_main: CallMain) -> None:
    result = call_main("resume", "--help")
    assert result.exit_code == 0
    assert "usage: tunetrail resume RUN_ID" in result.out
    assert "--force" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "b"), "resume takes the id of one run or --last, got a, b"),
        (("a", "--last"), "resume takes the id of one run or --last, got a, --last"),
        (("a", "-m"), "resume has no option -m; it has --force, --last, --json and --quiet"),
        (
            ("a", "embedding.training.num_epochs=9"),
            "with the configuration that it began with, got embedding.training",
        ),
        (
            ("a", "+experiments=quick"),
            "with the configuration that it began with, got +experiments=quick",
        ),
        (("a", "tracking.urri=x"), "urri"),
        (("a/b",), "RUN_ID must be 1 to 128 letters, digits"),
    ],
)
def test_resume_refuses_wrong_arguments(
    call_main: CallMain, workplace: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = call_main("resume", *arguments)
    assert result.exit_code == 2
    assert message in result.error_line


def test_resume_refuses_an_unknown_run(call_main: CallMain, workplace: Path) -> None:
    result = call_main("resume", "nothing", f"tracking.uri=sqlite:///{workplace}/mlflow.db")
    assert result.exit_code == 2
    assert "RUN_ID must be the id of a run, got 'nothing': neither sqlite:///" in result.error_line


def test_resume_in_a_folder_without_runs_makes_nothing(
    call_main: CallMain, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "empty").mkdir()
    monkeypatch.chdir(workplace / "empty")
    result = call_main("resume", "0f8fad5bd9cb469fa16570867728950e")
    assert result.exit_code == 2 and "got sqlite:///mlflow.db: there is no such file" in result.err
    assert list((workplace / "empty").iterdir()) == []
