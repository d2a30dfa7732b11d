"""A run's settings as plain values, without connections, and back again for resuming."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_type_hints

from tunetrail.config import (
    MODEL_SECTIONS,
    SET_BY_SWEEP,
    ModelSection,
    Settings,
    TrackingConfig,
)
from tunetrail.config.argument_types import check_type
from tunetrail.errors import ConfigError, UserError, did_you_mean
from tunetrail.paths import shown_uri

_Section = TypeVar("_Section")
# What the command line's request has in addition to the settings.
_REQUEST = ("session_id", "model_type")


def plain_settings(settings: Settings, database: str) -> dict[str, Any]:
    """Return all that was set as plain values.

    Args:
        settings: The settings; the URI of the tracking is left out, as it may hold a password.
        database: The URL of the database as it may be shown.
    """
    plain = dataclasses.asdict(settings)
    # What a watch waits for says nothing about one training.
    plain.pop("watch", None)
    # asdict copies nested sections, so the settings themselves keep their connections.
    plain["database"]["url"] = database
    plain["tracking"].pop("uri")
    plain["tracking"]["artifacts"] = shown_uri(plain["tracking"]["artifacts"])
    return plain


def leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value that isn't a section, with its dotted name."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def params_of(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain settings as the parameters of a run, by their dotted names.

    Which job of a sweep a run is isn't among them: MLflow's pages would show it as a difference
    between the jobs, next to what was swept.
    """
    return {name: value for name, value in leaves(plain) if name not in SET_BY_SWEEP}


def family_params(settings: Settings, section: ModelSection) -> dict[str, Any]:
    """Return the settings of one family as parameters of its run, with their dotted names.

    Args:
        settings: All that was set; the stores, which may hold passwords, are left out.
        section: The section of the family.
    """
    plain = dataclasses.asdict(settings)
    for name in ("database", "tracking", "watch", *MODEL_SECTIONS):
        if getattr(settings, name, None) is not section:
            plain.pop(name, None)
    return params_of(plain)


def settings_of(plain: Mapping[str, Any], tracking: TrackingConfig) -> Settings:
    """Return the settings that `plain_settings` gave, with the present store of runs.

    Raises:
        UserError: A key is unknown to this version, or its value is no longer allowed.
    """
    settings = _section_of(
        Settings, {name: value for name, value in plain.items() if name not in _REQUEST}, ""
    )
    # The URI was left out: the caller says which store is meant now.
    return dataclasses.replace(
        settings, tracking=dataclasses.replace(settings.tracking, uri=tracking.uri)
    )


def _section_of(section: type[_Section], plain: Mapping[str, Any], prefix: str) -> _Section:
    kinds = get_type_hints(section)
    values = {}
    for name, value in plain.items():
        if name not in kinds:
            raise UserError(
                f"the run's configuration has the key {prefix}{name}, which this version of "
                "tunetrail doesn't know."
                f"{did_you_mean(name, kinds)} Resume with the version that began the run."
            )
        nested = dataclasses.is_dataclass(kinds[name]) and isinstance(value, Mapping)
        if nested:
            values[name] = _section_of(kinds[name], value, f"{prefix}{name}.")
        else:
            values[name] = _checked(f"{prefix}{name}", value, kinds[name])

    # The constructor checks the values: a range may be narrower than when the run began.
    return section(**values)


def _checked(key: str, value: Any, kind: Any) -> Any:
    """Return a stored value; raises `UserError` if it doesn't have the type of its key."""
    try:
        check_type(key, value, kind)
    except ConfigError as error:
        raise UserError(
            f"the run's configuration is damaged: {error} Correct it where the run is stored, or "
            "train again."
        ) from error
    return value
