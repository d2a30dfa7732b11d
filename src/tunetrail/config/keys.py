"""Every key of the schema, with its type, its rule, its default and what its docstring says."""

import ast
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from tunetrail.config.checks import Rule
from tunetrail.config.settings import MISSING, TrainRequest
from tunetrail.config.sweep import SearchConfig
from tunetrail.config.validation import CheckConfig
from tunetrail.extensions import ExtensionPoint

SEARCH_SECTION = "hydra.sweeper"
_TYPE_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false"}
# Choices up to which a text of allowed values lists them all.
_MOST_CHOICES = 8


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A key of the schema.

    Attributes:
        key: The whole key, as it is typed.
        hint: Its type; a dataclass if the key is a section.
        rule: What its value must be; None if any value of the type will do.
        default: Its default; a section's is the section with its defaults.
        owner: The dataclass that it is a field of.
        point: The extensions that it names, or whose options stand below it; None if it has none.
    """

    key: str
    hint: Any
    rule: Rule | None
    default: Any
    owner: type
    point: ExtensionPoint | None = None

    @property
    def meaning(self) -> str:
        """What its docstring says, in one line; empty if a package wrote none."""
        return docstrings(self.owner).get(self.key.rpartition(".")[2], "")

    @property
    def is_section(self) -> bool:
        """Whether other keys are below this one."""
        return is_dataclass(self.hint)

    @property
    def is_mapping(self) -> bool:
        """Whether the names below this key are the user's own."""
        return typing.get_origin(self.hint) is dict

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the value may be; empty if it is no choice."""
        if self.hint is bool:
            return ("true", "false")
        return self.rule.all_choices if self.rule else ()

    @property
    def is_list(self) -> bool:
        """Whether the value is a list, of which each element is one of the choices if there are."""
        return typing.get_origin(self.hint) is list

    @property
    def shown_default(self) -> str:
        """The default as it is typed; empty if the value has to be given."""
        return "" if self.default == MISSING else typed(self.default)


@cache
def all_settings() -> dict[str, Setting]:
    """Return the settings and sections of a training and of sweeps, by key."""
    settings = [*settings_of(TrainRequest()), *settings_of(SearchConfig(), SEARCH_SECTION)]
    return {setting.key: setting for setting in settings}


def extension_settings(key: str) -> dict[str, Setting]:
    """Return all options of the installed extension that a key belongs to; empty without one.

    Its package is imported.

    Args:
        key: A key such as `embedding.extensions.LOSS` or `embedding.extensions.LOSS.OPTION`.

    Raises:
        ConfigError: The package can't be used.
    """
    for section, setting in all_settings().items():
        if setting.is_mapping and setting.point and key.startswith(f"{section}."):
            name = key.removeprefix(f"{section}.").partition(".")[0]
            options_class = None
            if name in setting.point.names():
                options_class = setting.point.load(name).options_class
            if options_class is None:
                return {}
            options = settings_of(_with_defaults(options_class), f"{section}.{name}")
            return {option.key: option for option in options}
    return {}


def _with_defaults(options_class: type[Any]) -> Any:
    """Return an object with the defaults, or the class itself if some options have none."""
    try:
        return options_class()
    except TypeError:
        return options_class


def settings_of(config: Any, section: str = "") -> Iterator[Setting]:
    """Yield the settings of a section in their order, each section before what is in it.

    Args:
        config: The section with its defaults, or its class.
        section: Its dotted key, empty at the top.
    """
    for setting in fields_of(config, section):
        yield setting
        if setting.is_section:
            yield from settings_of(setting.default, setting.key)


def fields_of(config: Any, section: str) -> Iterator[Setting]:
    """Yield the settings and sections directly in a section."""
    owner: type = config if isinstance(config, type) else type(config)
    hints = typing.get_type_hints(owner)

    for field in fields(config):
        rule: Rule | None = field.metadata.get("rule")
        yield Setting(
            key=f"{section}.{field.name}" if section else field.name,
            hint=hints[field.name],
            rule=rule,
            default=getattr(config, field.name, MISSING),
            owner=owner,
            point=rule.point if rule else field.metadata.get("point"),
        )


@cache
def docstrings(config_class: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass: the string literal under it."""
    meanings: dict[str, str] = {}
    for owner in reversed(config_class.__mro__):
        if not is_dataclass(owner):
            continue
        (definition,) = ast.parse(inspect.getsource(owner)).body
        assert isinstance(definition, ast.ClassDef)
        for field, docstring in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(docstring, ast.Expr):
                text = ast.literal_eval(docstring.value)
                meanings[ast.unparse(field.target)] = " ".join(text.split())
    return meanings


def allowed_values(setting: Setting, *, most_choices: int = _MOST_CHOICES) -> str:
    """Return the type of a setting and the rule for its value, as in `integer, at least 1`.

    Args:
        setting: The setting.
        most_choices: Choices above which they aren't listed.
    """
    if setting.hint is CheckConfig:
        return "check"
    rule = setting.rule
    if setting.hint is Any:
        return str(rule.text) if rule else "any value"

    alternatives = alternatives_of(setting.hint)
    concrete = [alternative for alternative in alternatives if alternative is not types.NoneType]

    # The rule of a text, or of a union such as `int | str`, says it all: "auto or at least 1".
    says_all = rule and (len(concrete) > 1 or concrete == [str])
    names = [] if says_all else [type_name(concrete[0])]
    if rule:
        is_long = len(rule.choices) > most_choices
        each = "each " if setting.is_list and rule.is_choice else ""
        text = f"{each}{rule.text.removeprefix('null or ')}"
        names.append("see the table" if is_long else text)
    is_optional = types.NoneType in alternatives
    return ", ".join(names) + (", or null" if is_optional else "")


def alternatives_of(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union such as `int | None`, or the type alone."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def type_name(hint: Any) -> str:
    """Return a type in words."""
    if typing.get_origin(hint) is dict:
        return "mapping"
    if typing.get_origin(hint) is list:
        return f"list of {type_name(typing.get_args(hint)[0])}s"
    # A package may annotate its options in other ways.
    return _TYPE_NAMES.get(hint) or str(hint)


def typed(value: Any) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, CheckConfig):
        aside = ", rows set aside" if value.set_aside else ""
        return f"{value.severity} above {value.threshold:g}{aside}"
    if isinstance(value, float):
        return re.sub("e-0", "e-", repr(value))
    # Blanks at the ends can only be seen between quotes.
    is_plain = isinstance(value, str) and value and value == value.strip()
    return str(value) if is_plain else json.dumps(value, ensure_ascii=False)
