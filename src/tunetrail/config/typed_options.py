"""Options of extensions: plain values of a configuration, checked against a package's dataclass.

They are checked as our own settings are: unknown names, types, rules (`setting`), and whatever the
dataclass itself refuses.
"""

import dataclasses
import typing
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from tunetrail.config.argument_types import check_type
from tunetrail.config.checks import check, check_settings
from tunetrail.errors import ConfigError, did_you_mean
from tunetrail.extensions import ExtensionPoint
from tunetrail.nearest_words import nearest_words

Options = Mapping[str, Mapping[str, Any]]
"""The options that a configuration sets, by extension and by name."""


def options_of(extension: Any, key: str, options: Options) -> Any:
    """Return the options of an extension, an object of its dataclass; None if it has none.

    Args:
        extension: A record with the attributes `name` and `options_class`.
        key: Key of the section that holds the options of all extensions of the kind.
        options: The section.

    Raises:
        ConfigError: An option is unknown, of the wrong type, or breaks its rule.
    """
    values = options.get(extension.name, {})
    own_key = f"{key}.{extension.name}"
    if extension.options_class is None:
        check(not values, own_key, "left out, since it has no options", dict(values))
        return None
    return typed_options(own_key, extension.options_class, values)


def typed_options(
    key: str, options_class: type[Any], values: Mapping[str, Any], defaults: Any = None
) -> Any:
    """Return an object of a dataclass with the values; see `options_of`.

    Args:
        key: Key of the options.
        options_class: The dataclass.
        values: The options that are set.
        defaults: An object with the other ones; None for the defaults of the dataclass.
    """
    check(isinstance(values, Mapping), key, "a mapping of options to values", values)
    hints = typing.get_type_hints(options_class)
    fields = {field.name: field for field in dataclasses.fields(options_class)}
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        own_key = f"{key}.{name}"
        if name not in fields:
            raise ConfigError(_unknown(own_key, name, fields))

        hint = hints[name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            # A section within may have other defaults than its class.
            factory = fields[name].default_factory
            section = None if factory is dataclasses.MISSING else factory()
            arguments[name] = typed_options(own_key, hint, value, section)
        else:
            check_type(own_key, value, hint)
            arguments[name] = value

    for name, field in fields.items():
        has_default = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if name not in arguments and not has_default and defaults is None:
            raise ConfigError(f"{key}.{name} must be given, since it has no default.")
    build = options_class if defaults is None else partial(dataclasses.replace, defaults)
    return _built(key, options_class, build, arguments)


def check_names(
    key: str,
    options: Options,
    point: ExtensionPoint,
    setting: str = "",
    used: Collection[str] | None = None,
) -> None:
    """Raise `ConfigError` for options of an extension that isn't installed or isn't used.

    Args:
        key: Key of the section that holds the options.
        options: The section.
        point: The kind of extension.
        setting: The setting that names the extensions which are used.
        used: Their names; None if any may be.
    """
    for name in options:
        installed = point.names()
        if name not in installed:
            raise ConfigError(
                f"{key}.{name} must be named after an installed {point.noun} "
                f"({', '.join(installed) or 'there is none'}), got {name!r}."
                f"{did_you_mean(name, installed)}"
            )
        # Ignored options would mislead: a sweep over one would compare equal trainings.
        if used is not None and name not in used:
            raise ConfigError(
                f"{key}.{name} must be left out unless {setting} names {name}, "
                f"got {dict(options[name])!r}."
            )


def _unknown(key: str, name: str, known: Collection[str]) -> str:
    section = key.removesuffix(name)
    nearest = nearest_words(name, known)
    suggestion = f" Did you mean {section + nearest[0]!r}?" if nearest else ""
    return f"there is no key {key}.{suggestion} Known here: {', '.join(known)}."


def _built(
    key: str, options_class: type[Any], build: Callable[..., Any], arguments: Mapping[str, Any]
) -> Any:
    try:
        options = build(**arguments)
    # What the package's own check raises is its own affair.
    except Exception as error:
        message = " ".join(str(error).split())
        raise ConfigError(
            f"{key} must have options that {options_class.__name__} accepts, "
            f"got {dict(arguments)!r}. {message}"
        ) from error
    check_settings(key, options)
    return options
