"""The JSON Schema of conf/ and of experiments, for editors: written from the dataclasses."""

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from tunetrail.cli.conf_groups import default_options, groups
from tunetrail.config import MISSING, TrainRequest
from tunetrail.config.keys import (
    Setting,
    all_settings,
    alternatives_of,
    extension_settings,
    settings_of,
)
from tunetrail.config.validation import CheckConfig
from tunetrail.errors import ConfigError, UserError
from tunetrail.extensions import ExtensionPoint

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
# A reference to another key or to the environment, which may stand for any value.
_INTERPOLATION = {"type": "string", "pattern": r"\$\{"}
_TYPES = {int: "integer", float: "number", str: "string", bool: "boolean"}


def conf_schema(sections: Sequence[str] = ()) -> dict[str, Any]:
    """Return the schema of whole files, or of the files of a group whose keys are a section's.

    Files that begin with `# @package _global_` are whole files: experiments, and the options of
    optimizer, schedule, trainer, callbacks, logger and sweep.

    Args:
        sections: At most one section, such as `embedding`.

    Raises:
        UserError: It is no section.
    """
    if len(sections) > 1:
        raise UserError(f"--schema takes one section at most, got {', '.join(sections)}.")
    section = sections[0] if sections else ""
    if section and not (section in all_settings() and all_settings()[section].is_section):
        top = [setting.key for setting in settings_of(TrainRequest()) if setting.is_section]
        known = ", ".join(key for key in top if "." not in key)
        raise UserError(f"--schema must be followed by one of {known}, got {section!r}.")

    schema = _section_schema(section)
    if not section:
        schema["properties"] |= _hydra_properties()
        schema["description"] = "The configuration of tunetrail: an experiment, or a global option."
    # An option may consist of its comment alone.
    return {"$schema": _DRAFT, **schema, "type": ["object", "null"]}


def _section_schema(section: str, known: Mapping[str, Setting] | None = None) -> dict[str, Any]:
    """Return the schema of the keys of a section; none of them has to be there.

    Args:
        section: Its dotted key, empty at the top.
        known: The settings among which they are; None for our own.
    """
    prefix = f"{section}." if section else ""
    properties = {}
    known = all_settings() if known is None else known
    for key, setting in known.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and "." not in name:
            properties[name] = _setting_schema(setting, known)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _setting_schema(setting: Setting, known: Mapping[str, Setting]) -> dict[str, Any]:
    if setting.is_mapping and setting.point is not None:
        return {"description": setting.meaning, **_extensions_schema(setting, setting.point)}
    if setting.is_section:
        return {"description": setting.meaning, **_section_schema(setting.key, known)}

    schema = _value_schema(setting)
    described: dict[str, Any] = {"description": setting.meaning}
    if setting.default != MISSING and not isinstance(setting.default, CheckConfig):
        described["default"] = setting.default
    return {**described, "anyOf": [schema, _INTERPOLATION]}


def _extensions_schema(setting: Setting, point: ExtensionPoint) -> dict[str, Any]:
    """Return the schema of the options of the installed extensions, by their names."""
    properties: dict[str, Any] = {}
    for name in point.names():
        key = f"{setting.key}.{name}"
        try:
            options = extension_settings(key)
        except ConfigError as error:
            properties[name] = {"description": str(error), "type": "object"}
            continue
        properties[name] = _section_schema(key, options)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value_schema(setting: Setting) -> dict[str, Any]:
    if setting.hint is Any:
        return {}
    if setting.choices and setting.is_list:
        return {"type": "array", "items": {"enum": list(setting.choices)}}
    if setting.choices and setting.hint is not bool:
        nullable = types.NoneType in alternatives_of(setting.hint)
        return {"enum": [*setting.choices, *([None] if nullable else [])]}

    bounds: Mapping[str, Any] = setting.rule.bounds if setting.rule else {}
    return {"anyOf": [_type_schema(hint, bounds) for hint in alternatives_of(setting.hint)]}


def _type_schema(hint: Any, bounds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a type, with the bounds of its numbers."""
    if hint is types.NoneType:
        return {"type": "null"}
    if typing.get_origin(hint) is dict:
        return {"type": "object"}
    if typing.get_origin(hint) is list:
        return {"type": "array", "items": _type_schema(typing.get_args(hint)[0], {})}
    if hint is float:
        # YAML reads 1e-5, without a dot, as a text; Hydra reads it as the number.
        number_as_text = {"type": "string", "pattern": r"^[+-]?(\d+e[+-]?\d+|\.?inf)$"}
        return {"anyOf": [{"type": "number", **bounds}, number_as_text]}
    # A text key keeps what looks like another type: session_id: 2026_11_24.
    if hint is str:
        return {"type": ["string", "number"]}
    if hint not in _TYPES:
        return {}
    return {"type": _TYPES[hint], **(bounds if hint is int else {})}


def _hydra_properties() -> dict[str, Any]:
    """Return what whole files have in addition: Hydra's own keys, and the options of groups."""
    options: dict[str, Any] = {}
    for group, names in groups().items():
        choice = {"anyOf": [{"enum": names}, {"type": ["string", "array", "null"]}]}
        if group in default_options():
            options[f"override /{group}"] = choice
        options[f"/{group}"] = options[group] = choice
    defaults = {
        "description": "Options of groups that this file begins with, as in override /optimizer.",
        "type": "array",
        "items": {"anyOf": [{"type": "string"}, {"type": "object", "properties": options}]},
    }
    return {"defaults": defaults, "hydra": {"description": "Hydra's own keys.", "type": "object"}}
