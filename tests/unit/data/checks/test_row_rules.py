import pytest

from tunetrail.config import ValidationConfig
from tunetrail.data.checks.row_rules import ColumnRules, turns_in_order


def turns(roles: str) -> list[dict[str, str]]:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[role], "content": "x"} for role in roles]


@pytest.mark.parametrize("roles", ["ua", "sua", "uaua", "suatau", "uatta", "u", ""])
def test_turns_in_order_takes_what_a_template_can_follow(roles: str) -> None:
    assert turns_in_order(turns(roles))


@pytest.mark.parametrize("roles", ["a", "sau", "uua", "uaa", "usa", "ut", "uatu"])
def test_turns_in_order_refuses_every_other_order(roles: str) -> None:
    assert not turns_in_order(turns(roles))


def test_a_value_of_the_wrong_type_breaks_no_other_rule() -> None:
    rules = ColumnRules("embedding", ValidationConfig())

    broken = rules.broken_by([])

    assert [rule.reason for rule in broken] == ["embedding is not a non-empty list of numbers"]


def test_a_value_can_break_several_rules() -> None:
    rules = ColumnRules("text", ValidationConfig(max_characters=3))

    broken = rules.broken_by(" " * 4)

    assert [rule.check for rule in broken] == ["rows.empty", "rows.too_long"]
