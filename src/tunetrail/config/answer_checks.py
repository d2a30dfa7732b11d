"""Read the checks of written answers: a regular expression, and a JSON schema."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.validators import validator_for
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from tunetrail.errors import ConfigError, one_line

_PATTERN, _SCHEMA = "evaluation.generation.pattern", "evaluation.generation.json_schema"


def read_pattern(pattern: str) -> re.Pattern[str]:
    """Return the compiled regular expression; raises `ConfigError` if it isn't one."""
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{_PATTERN} must be a regular expression, got {pattern!r}. Correct it: {error}."
        ) from error


def read_json_schema(text: str) -> Any:
    """Return jsonschema's validator of a JSON schema.

    The validator never opens a file or a network address: a schema that refers to one is refused.

    Args:
        text: The schema as JSON, which begins with `{`, or the path of a file that holds it.

    Raises:
        ConfigError: The file can't be read, or it holds no JSON schema.
    """
    content = text if text.lstrip().startswith("{") else _content_of(text)
    try:
        schema = json.loads(content)
        # `true` is a schema too, but checks nothing.
        if not isinstance(schema, dict):
            raise ValueError("it must be an object, {...}")

        # A schema without `$schema` counts as one of the latest draft.
        validator_class = validator_for(schema, default=Draft202012Validator)
        validator_class.check_schema(schema, format_checker=validator_class.FORMAT_CHECKER)
        _check_references(schema)
        # An empty registry: by default, the library would download what a schema refers to.
        validator = validator_class(schema, registry=Registry())
        # A reference that leads back to itself without end shows on any value.
        validator.is_valid(None)
    except SchemaError as error:
        message = " ".join(error.message.split())
        raise ConfigError(
            f"{_SCHEMA} must be a JSON schema, got {text!r}. Correct {error.json_path}: {message}."
        ) from error
    except (ValueError, RecursionError, Unresolvable) as error:
        raise ConfigError(
            f"{_SCHEMA} must be a JSON schema, got {text!r}. Correct it: {one_line(error)}."
        ) from error
    return validator


def _content_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    # A ValueError if the file isn't text, or the path can't be one.
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{_SCHEMA} must be a readable file, or JSON that begins with {{, got {path!r}. "
            f"Name another file: {one_line(error)}."
        ) from error


def _check_references(schema: dict[str, Any]) -> None:
    """Raise `ValueError` or `Unresolvable` if the schema refers to what it doesn't hold."""
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = Registry().resolver_with_root(resource)
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise ValueError(f"$ref must stay within the schema (#...), got {reference!r}")
        resolver.lookup(reference)


def _references(schema: Any) -> Iterator[str]:
    """Yield the references in a schema, at any depth."""
    members = schema if isinstance(schema, list) else []
    if isinstance(schema, dict):
        members = list(schema.values())
        for keyword in ("$ref", "$dynamicRef"):
            # A property may have the name of a keyword; its value is then a schema.
            if isinstance(schema.get(keyword), str):
                yield schema[keyword]
    for member in members:
        yield from _references(member)
