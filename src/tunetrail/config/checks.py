"""The checks that every section of the schema shares: one sentence that names the field, the rule and the value."""

import re

from tunetrail.errors import ConfigError, did_you_mean

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check(holds: bool, name: str, rule: str, value: object, advice: str = "") -> None:
    """Raise `ConfigError` unless `holds`: NAME must be RULE, got VALUE."""
    if not holds:
        raise ConfigError(f"{name} must be {rule}, got {value!r}.{' ' + advice if advice else ''}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError` for a value that isn't among `choices`, with the nearest one."""
    check(
        value in choices,
        name,
        f"one of {', '.join(choices)}",
        value,
        did_you_mean(value, choices).strip(),
    )


def check_share(name: str, value: float) -> None:
    """Raise `ConfigError` for a value that isn't between 0 and 1."""
    check(0.0 <= value <= 1.0, name, "between 0 and 1", value)


def check_identifier(name: str, value: str) -> str:
    """Return `value` if it is safe in a path, a tag and SQL; raises `ConfigError` otherwise."""
    check(
        isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None,
        name,
        "1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        value,
    )
    return value
