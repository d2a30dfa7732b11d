from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def test_resume_help_tells_what_it_takes(tunetrail: Command) -> None:
    ended = tunetrail("resume", "--help")
    assert (
        ended.code == 0 and "usage: tunetrail resume RUN_ID" in ended.out and "--force" in ended.out
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "resume takes the id of one run, got none"),
        (("a", "b"), "resume takes the id of one run, got a, b"),
        (("a", "-m"), "resume has no option -m; it has --force"),
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
    tunetrail: Command, workplace: Path, arguments: tuple[str, ...], message: str
) -> None:
    ended = tunetrail("resume", *arguments)
    assert ended.code == 2 and message in ended.err and len(ended.err.splitlines()) == 1


def test_resume_refuses_an_unknown_run(tunetrail: Command, workplace: Path) -> None:
    ended = tunetrail("resume", "nothing", f"tracking.uri=sqlite:///{workplace}/mlflow.db")
    assert ended.code == 2 and len(ended.err.splitlines()) == 1
    assert "RUN_ID must be the id of a run, got 'nothing': neither sqlite:///" in ended.err


def test_resume_in_a_folder_without_runs_makes_nothing(
    tunetrail: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "empty").mkdir()
    monkeypatch.chdir(workplace / "empty")
    ended = tunetrail("resume", "0f8fad5bd9cb469fa16570867728950e")
    assert ended.code == 2 and "got sqlite:///mlflow.db: there is no such file" in ended.err
    assert list((workplace / "empty").iterdir()) == []
