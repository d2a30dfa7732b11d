from dataclasses import dataclass
from typing import Any

import pytest

from tunetrail.config import check_identifier
from tunetrail.config.checks import (
    ABOVE_ZERO_TO_ONE,
    POSITIVE,
    SHARE,
    ZERO_TO_BELOW_ONE,
    Rule,
    at_least,
    check_settings,
    one_of,
    setting,
)
from tunetrail.errors import ConfigError


@dataclass(kw_only=True)
class Section:
    size: int = setting(1, at_least(1, " row"))
    limit: float | None = setting(None, SHARE)
    kind: Any = setting("one", one_of("one", "two"))


@pytest.mark.parametrize("value", ["a", "session_123", "2024-03-07.b", "x" * 128])
def test_check_identifier_returns_a_safe_name(value: str) -> None:
    assert check_identifier("session_id", value) == value


@pytest.mark.parametrize(
    "value", ["", ".hidden", "-x", "a/b", "../a", "a b", "a\n", "é", "x" * 129, 3, None]
)
def test_check_identifier_refuses(value: Any) -> None:
    with pytest.raises(ConfigError, match="session_id must be 1 to 128 letters"):
        check_identifier("session_id", value)


@pytest.mark.parametrize(
    "rule", [SHARE, POSITIVE, ABOVE_ZERO_TO_ONE, ZERO_TO_BELOW_ONE, at_least(0)]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_rules_for_numbers_refuse_what_is_not_finite_or_negative(rule: Rule, value: float) -> None:
    assert not rule.allows(value)


def test_check_settings_names_the_key_the_rule_and_the_value() -> None:
    with pytest.raises(ConfigError, match=r"^section\.size must be at least 1 row, got 0\.$"):
        check_settings("section", Section(size=0))
    with pytest.raises(
        ConfigError, match=r"^kind must be one of one, two, got 'tow'\. Did you mean"
    ):
        check_settings("", Section(kind="tow"))


def test_check_settings_allows_none_only_where_it_is_the_default() -> None:
    check_settings("section", Section(limit=None))

    with pytest.raises(ConfigError, match=r"section\.kind must be one of one, two, got None"):
        check_settings("section", Section(kind=None))
