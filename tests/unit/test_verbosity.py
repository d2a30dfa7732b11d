import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from transformers.utils import logging as transformers_logging

from tunetrail.errors import ConfigError
from tunetrail.verbosity import VARIABLE, saying, verbosity

LOGGER = logging.getLogger("tunetrail.somewhere")


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


@contextmanager
def handlers(*configured: logging.Handler) -> Iterator[None]:
    """Let the root logger have these handlers only, as pytest adds its own to each test."""
    before, logging.root.handlers = logging.root.handlers, list(configured)
    try:
        yield
    finally:
        logging.root.handlers = before


def say() -> None:
    LOGGER.debug("a detail")
    LOGGER.info("a step")
    LOGGER.warning("a doubt")


@pytest.mark.parametrize(
    ("verbose", "said"),
    [
        (0, ["a doubt"]),
        (None, ["a step", "a doubt"]),
        (1, ["a step", "a doubt"]),
        (2, ["a detail", "a step", "a doubt"]),
    ],
)
def test_saying_prints_lines_on_stderr(
    verbose: int | None, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with handlers(), saying(verbose):
        say()
    printed = capsys.readouterr()

    assert printed.out == ""
    assert [line.partition(" ")[2][8:] for line in printed.err.splitlines()] == said


def test_saying_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", raising=False)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    mlflow, ours = logging.getLogger("mlflow"), logging.getLogger("tunetrail")
    monkeypatch.setattr(mlflow, "level", logging.INFO)

    with handlers(), saying(1):
        assert os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] == "false"
        assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
        assert (mlflow.level, ours.level) == (logging.WARNING, logging.INFO)
        assert len(ours.handlers) == 1

    assert "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR" not in os.environ and VARIABLE not in os.environ
    assert (mlflow.level, ours.level) == (logging.INFO, logging.NOTSET)
    assert ours.handlers == []


def test_saying_leaves_the_lines_to_the_application(capsys: pytest.CaptureFixture[str]) -> None:
    records: list[str] = []

    class Records(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    with handlers(Records()), saying(1):
        say()
    # Configured while the call runs.
    with handlers(), saying(1), handlers(Records()):
        say()

    assert records == ["a step", "a doubt"] * 2
    assert capsys.readouterr().err == ""


def test_saying_leaves_a_level_that_the_application_has_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger("tunetrail"), "level", logging.ERROR)
    with handlers(), saying(2):
        say()
    assert capsys.readouterr().err == ""


def test_saying_prints_a_line_once_within_another_call(capsys: pytest.CaptureFixture[str]) -> None:
    with handlers(), saying(1), saying(None):
        say()
    assert capsys.readouterr().err.count("a step") == 1


def test_saying_nothing_holds_for_calls_within(capsys: pytest.CaptureFixture[str]) -> None:
    with handlers(), saying(0), saying(None):
        assert verbosity() == 0
        say()
    assert "a step" not in capsys.readouterr().err


def test_saying_everything_leaves_libraries_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mlflow"), "level", logging.INFO)
    with saying(2):
        assert logging.getLogger("mlflow").level == logging.INFO


@pytest.mark.parametrize("verbose", [3, -1, "loud", 1.5, True])
def test_saying_refuses_another_level(verbose: object) -> None:
    with (
        pytest.raises(ConfigError, match=r"^verbose must be 0 \(warnings\), 1 .* got "),
        saying(verbose),  # type: ignore[arg-type]
    ):
        pass


def test_saying_names_a_wrong_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "yes")
    with pytest.raises(ConfigError, match=r"^TUNETRAIL_VERBOSE must be 0"), saying(None):
        pass


def test_saying_prints_in_a_notebook_without_the_colour_of_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class OutStream:
        """As ipykernel's, by which a notebook is known."""

    OutStream.__module__ = "ipykernel.iostream"
    with handlers(), saying(1):
        monkeypatch.setattr(sys, "stderr", OutStream())
        say()
    assert "a step" in capsys.readouterr().out


@pytest.fixture
def bars() -> Iterator[None]:
    """The bars of transformers, which other tests may have turned off."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.enable_progress_bar()
    yield
    if not was_on:
        transformers_logging.disable_progress_bar()


@pytest.mark.parametrize(("verbose", "shows_bars"), [(0, False), (1, False), (2, True)])
def test_saying_hides_the_bars_of_a_library_that_is_imported_already(
    bars: None, verbose: int, shows_bars: bool
) -> None:
    with saying(verbose), saying(None):
        assert transformers_logging.is_progress_bar_enabled() == shows_bars
    assert transformers_logging.is_progress_bar_enabled()


def test_saying_leaves_bars_off_that_the_application_has_turned_off(bars: None) -> None:
    transformers_logging.disable_progress_bar()
    with saying(1):
        pass
    assert not transformers_logging.is_progress_bar_enabled()
