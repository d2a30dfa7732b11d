"""Compose a configuration without running it, and tell where each of its values comes from."""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunetrail.cli.composition import checked_request, prepare_hydra
from tunetrail.cli.conf_groups import EXPERIMENTS
from tunetrail.cli.hydra_errors import readable_errors
from tunetrail.cli.override_keys import check_keys, with_signs
from tunetrail.config import AUTO, MISSING, TrainRequest
from tunetrail.config.keys import Setting, all_settings
from tunetrail.paths import shown_uri

_SCHEMA = "train_schema"
# Keys whose values may hold a password.
_ADDRESSES = ("database.url", "tracking.uri", "tracking.artifacts")
_VARIABLE = re.compile(r"\$\{oc\.env:(\w+)")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a value comes from.

    Attributes:
        kind: `default`, `group`, `experiment` or `override`.
        source: What has set it: `schema default`, an option such as `embedding=e5-small`, an
            experiment, or the override as it was typed.
    """

    kind: str
    source: str


@dataclass(frozen=True, kw_only=True)
class ResolvedSetting:
    """A setting with its value and where that comes from.

    Attributes:
        setting: The setting.
        value: Its value, without passwords; `MISSING` if it has to be given.
        origin: Where the value comes from.
    """

    setting: Setting
    value: Any
    origin: Origin

    @property
    def is_automatic(self) -> bool:
        """Whether the run itself chooses the value that counts."""
        return bool(self.value == AUTO)

    @property
    def differs(self) -> bool:
        """Whether the value differs from the schema's default."""
        return bool(self.value != self.setting.default)


def resolved_settings(overrides: Sequence[str]) -> tuple[TrainRequest, list[ResolvedSetting]]:
    """Return the checked request that overrides make, and each of its settings with its origin.

    Args:
        overrides: Overrides as they are typed; the session may be missing.

    Raises:
        ConfigError: A key or value isn't allowed.
    """
    text_keys = prepare_hydra()
    from hydra import compose
    from omegaconf import OmegaConf, open_dict

    from tunetrail.cli.remembered_configs import initialized_hydra
    from tunetrail.cli.text_values import keep_text

    check_keys(overrides)
    overrides = [keep_text(override, text_keys) for override in with_signs(overrides)]
    with readable_errors(), initialized_hydra():
        config = compose("train", list(overrides))
        lacks_session = OmegaConf.is_missing(config, "session_id")
        if lacks_session:
            with open_dict(config):
                config.session_id = "none"
        request = checked_request(config)
        origins = _origins(overrides)

    values = dict(_values(dataclasses.asdict(request)))
    if lacks_session:
        values["session_id"] = MISSING
    default = Origin(kind="default", source="schema default")
    settings = all_settings()
    resolved = [
        ResolvedSetting(setting=settings[key], value=value, origin=origins.get(key, default))
        for key, value in values.items()
    ]
    return request, resolved


def _values(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of a request by key, addresses without their passwords."""
    settings = all_settings()
    for name, value in plain.items():
        key = f"{prefix}{name}"
        if settings[key].is_section:
            yield from _values(value, f"{key}.")
        else:
            yield key, shown_uri(value) if key in _ADDRESSES else value


def _origins(overrides: Sequence[str]) -> dict[str, Origin]:
    """Return the origin of each key that a file or an override sets; Hydra is initialised."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    # Hydra's own steps of a composition, file by file; it doesn't keep which file said what.
    loader: Any = GlobalHydra.instance().config_loader()
    _, repository = loader._parse_overrides_and_create_caching_repo("train", overrides)
    chosen = loader.compute_defaults_list("train", overrides, RunMode.RUN)

    origins: dict[str, Origin] = {}
    for default in chosen.defaults:
        if default.config_path in ("train", _SCHEMA) or default.config_path.startswith("hydra"):
            continue
        loaded = loader._load_single_config(default=default, repo=repository).config
        group, _, option = default.config_path.partition("/")
        for key, value in _leaves(OmegaConf.to_container(loaded)):
            origins[key] = _origin_of_file(group, option, value)

    for override in chosen.config_overrides:
        if not override.key_or_group.startswith("hydra"):
            origin = Origin(kind="override", source=shown_uri(override.input_line))
            for key, _ in _leaves({override.key_or_group: override.value()}):
                origins[key] = origin
    return origins


def _origin_of_file(group: str, option: str, value: Any) -> Origin:
    if group == EXPERIMENTS:
        return Origin(kind="experiment", source=f"+{group}={option}")
    variable = _VARIABLE.search(value) if isinstance(value, str) else None
    note = f" from ${variable[1]}" if variable and os.environ.get(variable[1]) else ""
    return Origin(kind="group", source=f"{group}={option}{note}")


def _leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values that a file sets, by the keys of the schema."""
    settings = all_settings()
    for name, value in values.items():
        key = f"{prefix}{name}"
        is_section = key in settings and settings[key].is_section
        # A callback of one's own belongs to the mapping that holds it.
        if isinstance(value, Mapping) and (is_section or key not in settings):
            yield from _leaves(value, f"{key}.")
            continue

        mappings = (name for name in settings if settings[name].is_mapping)
        above = (name for name in mappings if key.startswith(f"{name}."))
        yield next(above, key), value
