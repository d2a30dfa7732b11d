from io import StringIO

import pytest
from tests.commands import CallMain


@pytest.mark.parametrize("received", ["", "no JSON"])
def test_job_is_not_for_people(
    received: str, call_main: CallMain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(received))
    result = call_main("job")
    assert result.exit_code == 2
    assert result.error_line.startswith("error: job is called by the launchers of a sweep only")
