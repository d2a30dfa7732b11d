"""Rules for the values of settings, each stated once and next to its field."""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunetrail.config.synonyms import words_of
from tunetrail.errors import ConfigError, did_you_mean
from tunetrail.extensions import ExtensionPoint

# The longest name of a file that usual file systems keep.
_NAME_BYTES = 255
# Without a leading dot or dash: neither a hidden file, nor `..`, nor an option of a command.
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class Rule:
    """What a setting's value must be.

    Attributes:
        text: The rule in words, as it follows "must be" in an error message.
        allows: Tells whether a value satisfies the rule.
        choices: The allowed words, if the value is one of a few, or a list of some of them.
        bounds: What a JSON Schema says of a number that satisfies it, such as `minimum`.
        point: The extensions whose names are allowed as well.
    """

    text: str
    allows: Callable[[Any], bool]
    choices: tuple[str, ...] = ()
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    point: ExtensionPoint | None = None

    @property
    def is_choice(self) -> bool:
        """Whether the value is one of a few words, or a list of some."""
        return bool(self.choices) or self.point is not None

    @property
    def all_choices(self) -> tuple[str, ...]:
        """The allowed words, with those that installed packages add."""
        further = self.point.names() if self.point else ()
        return tuple(dict.fromkeys([*self.choices, *further]))


def at_least(minimum: int, note: str = "") -> Rule:
    """Return the rule for a finite number from `minimum` up; `note` is added to its text."""
    # Infinity is refused, too: as a count or size, it would fail far from here.
    bounds = {"minimum": minimum}
    return Rule(
        f"at least {minimum}{note}", lambda value: minimum <= value < math.inf, bounds=bounds
    )


def one_of(*choices: str, point: ExtensionPoint | None = None) -> Rule:
    """Return the rule for a value that is one of a few words, or a list of some of them."""
    text = f"one of {', '.join(choices)}" if choices else "names of installed packages"
    return Rule(text, lambda value: value in choices, choices, point=point)


# Comparisons with NaN are false, so that every rule refuses it.
SHARE = Rule(
    "between 0 and 1", lambda share: 0.0 <= share <= 1.0, bounds={"minimum": 0, "maximum": 1}
)
POSITIVE = Rule("above 0", lambda value: 0.0 < value < math.inf, bounds={"exclusiveMinimum": 0})
ABOVE_ZERO_TO_ONE = Rule(
    "above 0 and at most 1",
    lambda value: 0.0 < value <= 1.0,
    bounds={"exclusiveMinimum": 0, "maximum": 1},
)
ZERO_TO_BELOW_ONE = Rule(
    "at least 0 and below 1",
    lambda value: 0.0 <= value < 1.0,
    bounds={"minimum": 0, "exclusiveMaximum": 1},
)


def _is_path(value: Any) -> bool:
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in text:
        return False
    return max(len(os.fsencode(name)) for name in text.split("/")) <= _NAME_BYTES


PATH = Rule(f"a path whose names have at most {_NAME_BYTES} bytes, without NUL", _is_path)


def setting(default: Any, rule: Rule) -> Any:
    """Return a dataclass field with this default and this rule for `check_settings`."""
    # Metadata is invisible to Hydra and OmegaConf, which see an ordinary field.
    return dataclasses.field(default=default, metadata={"rule": rule})


def choices_setting(*choices: str, point: ExtensionPoint | None = None) -> Any:
    """Return a dataclass field for a list of words, each one of `choices` or of the extensions."""
    return dataclasses.field(default_factory=list, metadata={"rule": one_of(*choices, point=point)})


def options_setting(point: ExtensionPoint) -> Any:
    """Return a dataclass field for the options of extensions, by their names."""
    return dataclasses.field(default_factory=dict, metadata={"point": point})


def check_settings(section: str, config: Any) -> None:
    """Raise `ConfigError` for the first setting of a section that breaks the rule of its field.

    None is allowed for a field whose default is None: the setting is then not made.

    Args:
        section: Dotted key of the section, for the message; empty for the settings at the top.
        config: The section, a dataclass whose fields may be `setting`s.
    """
    for field in dataclasses.fields(config):
        rule, value = field.metadata.get("rule"), getattr(config, field.name)
        if rule is None or (value is None and field.default is None):
            continue

        key = f"{section}.{field.name}" if section else field.name
        # Among words, the message can name the nearest one.
        if rule.is_choice:
            for word in value if isinstance(value, list) else [value]:
                check_choice(key, word, rule.all_choices)
                if rule.point is not None:
                    rule.point.check_unique(word)
        else:
            check(rule.allows(value), key, rule.text, value)


def check(holds: bool, name: str, rule: str, value: object, advice: str = "") -> None:
    """Raise `ConfigError` unless `holds`: NAME must be RULE, got VALUE. ADVICE"""
    if not holds:
        raise ConfigError(f"{name} must be {rule}, got {value!r}.{' ' + advice if advice else ''}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `ConfigError`, with the nearest choice, for a value that isn't among `choices`."""
    if value not in choices:
        # The name may say for what: `embedding.loss for pair samples`.
        advice = did_you_mean(str(value), choices, words_of(name.split()[0])).strip()
        rule = f"one of {', '.join(choices)}" if choices else "left out: no package adds any"
        check(False, name, rule, value, advice)


def check_different(name: str, values: list[Any]) -> None:
    """Raise `ConfigError` for a list in which a value is repeated."""
    check(len(set(values)) == len(values), name, "all different", values)


def check_identifier(name: str, value: str) -> str:
    """Return `value` if it is safe in a path, a tag and SQL; raise `ConfigError` if not."""
    # The Python API can be called with anything; a type hint stops nobody.
    is_safe = isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None
    rule = "1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
    check(is_safe, name, rule, value)
    return value
