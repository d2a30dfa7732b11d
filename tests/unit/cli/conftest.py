"""The command line, called in this process: what it printed, and its exit code."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunetrail.cli import main


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def tunetrail(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """`tunetrail ARGUMENT ...` in an empty folder; what it sets in the environment and in logging is undone."""
    monkeypatch.setenv("TUNETRAIL_HOME", str(workplace))
    for name in (
        "TUNETRAIL_SHIPPED",
        "HYDRA_FULL_ERROR",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
        "HF_HUB_DISABLE_PROGRESS_BARS",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.delenv("TUNETRAIL_DATABASE_URL", raising=False)
    monkeypatch.delenv("TUNETRAIL_DEBUG", raising=False)

    def run(*arguments: str) -> Ended:
        if arguments[:1] == ("train",) and not any(
            each.startswith("tracking.uri=") for each in arguments
        ):
            # not the relative default: MLflow keeps one open store per URI, whichever folder the
            # process is in by now
            arguments = ("train", f"tracking.uri=sqlite:///{workplace}/mlflow.db", *arguments[1:])
        code = main(arguments)
        printed = capsys.readouterr()
        return Ended(code, printed.out, printed.err)

    yield run
