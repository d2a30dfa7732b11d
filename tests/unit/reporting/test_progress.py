import pytest
import rich

from tunetrail.reporting.progress import progress_console, rich_console_kept
from tunetrail.verbosity import saying


def test_progress_console_prints_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    progress_console().print("half of it")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "half of it\n")


def test_progress_console_prints_nothing_if_only_warnings_are_wanted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with saying(0):
        progress_console().print("half of it")
    assert capsys.readouterr().err == ""


def test_progress_console_has_no_colours_if_nobody_wants_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert progress_console().no_color


def test_rich_console_kept_gives_the_application_its_own_back() -> None:
    rich.reconfigure(width=71)
    with rich_console_kept():
        rich.reconfigure(stderr=True)
        assert rich.get_console().stderr

    assert not rich.get_console().stderr and rich.get_console().width == 71
    rich.reconfigure()
