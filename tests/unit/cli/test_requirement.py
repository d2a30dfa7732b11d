from typing import Any

import pytest

from tunetrail.cli.requirement import NOT_PROMOTED, Requirement


def results(**decisions: str) -> dict[str, Any]:
    deployment = {
        model_type: {"decision": decision, "promote": decision == "promoted"}
        for model_type, decision in decisions.items()
    }
    return {"results": {"steps": {"deployment": deployment}}}


@pytest.mark.parametrize(
    ("words", "came", "exit_code", "said"),
    [
        (["--require", "promoted"], results(embedding="promoted"), 0, ""),
        ([], results(embedding="refused"), 0, ""),
        (
            ["--require", "promoted"],
            results(embedding="promoted", llm="refused"),
            NOT_PROMOTED,
            "not promoted, as --require asks: llm is refused\n",
        ),
        (
            ["--require", "promoted"],
            results(embedding="waiting"),
            NOT_PROMOTED,
            "not promoted, as --require asks: embedding is waiting\n",
        ),
        # A sweep without a winner.
        (
            ["--require=promoted"],
            None,
            NOT_PROMOTED,
            "not promoted, as --require asks: no model was evaluated\n",
        ),
    ],
)
def test_requirement_becomes_an_exit_code(
    words: list[str],
    came: dict[str, Any] | None,
    exit_code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    requirement, remaining = Requirement.taken_from(["seed=1", *words])
    requirement.check(came)

    assert remaining == ["seed=1"]
    assert requirement.exit_code() == exit_code
    assert capsys.readouterr().err == said
    assert Requirement.taken_from(requirement.words)[0].promoted == requirement.promoted
