"""The request from Python's values: overrides of them, composed as the command line does it."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from tunetrail.cli.composition import (
    checked_request,
    compose_config,
    prepare_hydra,
    split_arguments,
)
from tunetrail.cli.conf_groups import EXPERIMENTS, is_open_key
from tunetrail.cli.hydra_errors import readable_errors
from tunetrail.cli.override_keys import check_keys, with_signs
from tunetrail.cli.unused_settings import warn_of_unused
from tunetrail.config import TrainRequest
from tunetrail.errors import ConfigError
from tunetrail.verbosity import changed_environment

# A text without a character that means something in Hydra's grammar.
_WORD = re.compile(r"[\w./@+-]+", re.ASCII)


def compose_request(overrides: Sequence[str], *, defaults: Sequence[str] = ()) -> TrainRequest:
    """Return the checked request that the command line would make of the overrides.

    Nothing else of the process changes: neither its logging nor its arguments, nor the Hydra of an
    application that has one of its own.

    Args:
        overrides: As on the command line, without options.
        defaults: Overrides that apply unless the others say otherwise.

    Raises:
        ConfigError: The overrides or an experiment file can't be composed.
    """
    options = split_arguments(overrides)[1]
    if options:
        raise ConfigError(
            f"overrides must be KEY=VALUE, got {options[0]!r}. Options such as -m, which sweeps, "
            "belong to the command line: tunetrail train --help."
        )

    with _hydra_kept(), readable_errors():
        text_keys = prepare_hydra()
        from tunetrail.cli.text_values import keep_text

        check_keys(overrides)
        texts_kept = [keep_text(override, text_keys) for override in with_signs(overrides)]
        request = checked_request(compose_config([*defaults, *texts_kept]))
        warn_of_unused(request, overrides)
        return request


@contextmanager
def _hydra_kept() -> Iterator[None]:
    """Leave the environment and the application's Hydra as they were after the block."""
    from hydra.version import VersionBase, setbase

    # The folder may be another one at the next call: experiments are looked for in it.
    variables = {
        "TUNETRAIL_HOME": os.environ.get("TUNETRAIL_HOME", str(Path.cwd())),
        "TUNETRAIL_SHIPPED": "",
        "HYDRA_FULL_ERROR": "1",
    }
    version_base = VersionBase.instance().getbase()
    with changed_environment(variables):
        try:
            setbase("1.3")
            yield
        finally:
            VersionBase.instance().version_base = version_base


def overrides_of(settings: Mapping[str, Any]) -> list[str]:
    """Return the command line's overrides for settings from Python.

    Args:
        settings: By key, such as `{"seed": 7}`; a section as a mapping, `{"embedding":
            {"training": {"learning_rate": 3e-5}}}`, or as a key with dots; an option of a group by
            its name, `{"embedding": "minilm", "experiments": "quick"}`.

    Raises:
        ConfigError: A value is of a type that no setting has.
    """
    return [f"{_signed(key)}={_written(key, value)}" for key, value in _leaves(settings)]


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _signed(key: str) -> str:
    """Return the key as Hydra wants it: with a plus if the defaults don't have it."""
    is_new = key == EXPERIMENTS or is_open_key(key)
    return f"+{key}" if is_new else key


def _written(key: str, value: Any) -> str:
    """Return a value in Hydra's grammar; a text of more than one plain word is quoted."""
    # NumPy's numbers become Python's.
    value = value.item() if hasattr(value, "item") else value

    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)

    if isinstance(value, str | os.PathLike):
        text = str(os.fspath(value))
        is_word = _WORD.fullmatch(text) is not None
        return text if is_word else QuotedString(text, Quote.single).with_quotes()
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return f"[{','.join(_written(key, element) for element in value)}]"

    raise ConfigError(
        f"{key} must be a text, a number, true, false, None, a list or a mapping, got "
        f"{type(value).__name__} {value!r}."
    )
