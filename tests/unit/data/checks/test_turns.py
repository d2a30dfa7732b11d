import pytest

from tunetrail.data.checks.turns import disorder


def turns(roles: str) -> list[dict[str, str]]:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[role], "content": "x"} for role in roles]


@pytest.mark.parametrize("roles", ["ua", "sua", "uaua", "suatau", "uatta", "u", ""])
def test_disorder_is_none_for_turns_in_order(roles: str) -> None:
    assert disorder(turns(roles)) is None


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ("a", "turn 1 is the assistant's"),
        ("sau", "turn 2 is the assistant's behind the system's"),
        ("uua", "turn 2 is the user's behind the user's"),
        ("uaa", "turn 3 is the assistant's behind the assistant's"),
        ("usa", "turn 2 is the system's"),
        ("ut", "turn 2 is the tool's behind the user's"),
        ("uatu", "turn 4 is the user's behind the tool's"),
    ],
)
def test_disorder_names_the_first_turn_out_of_order(roles: str, reason: str) -> None:
    assert disorder(turns(roles)) == reason
