from pathlib import Path

import pytest
from tests.commands import CallMain

from tunetrail.pipeline.planning.plan_lines import in_units


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["session_id=none"], "session_id must name a session of the database"),
        ([], "session_id must be given"),
        (["session_id=s1", "embedding.training.learnin_rate=1"], "learning_rate"),
        (["session_id=s1", "cross_validation.n_splits=1"], "cross_validation.n_splits must be"),
        (["session_id=s1", "-m"], "plan takes one configuration, got -m"),
    ],
)
def test_plan_refuses_a_wrong_request_in_one_line(
    workplace: Path, call_main: CallMain, words: list[str], text: str
) -> None:
    before = set(workplace.iterdir())

    result = call_main("plan", *words)

    lines = [line for line in result.err.splitlines() if not line.startswith("plan: loading")]
    assert result.exit_code == 2
    assert len(lines) == 1 and text in lines[0]
    assert set(workplace.iterdir()) == before


def test_plan_help_says_what_is_measured_and_what_is_not_recorded(call_main: CallMain) -> None:
    result = call_main("plan", "--help")
    assert result.exit_code == 0
    for words in ("usage: tunetrail plan", "--json", "Nothing is trained", "cross_validation"):
        assert words in result.out


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (3 << 30, "3 GiB"), (5 << 50, "5.12e+03 TiB")],
)
def test_sizes_have_units(size: int, text: str) -> None:
    assert in_units(size) == text
