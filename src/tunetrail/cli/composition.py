"""Compose one typed request from conf/, experiments and the arguments, with Hydra."""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin

from tunetrail.cli.conf_groups import EXTENDED_GROUPS, experiment_names, groups, shipped_groups
from tunetrail.cli.hydra_errors import NO_SESSION
from tunetrail.config import MODEL_SECTIONS, TrainRequest, name_of_sessions
from tunetrail.config.key_suggestions import did_you_mean_key
from tunetrail.config.trainer import TARGET
from tunetrail.errors import ConfigError, naming_section
from tunetrail.paths import experiments_dir

_OPTIONS_WITH_VALUE = (
    *("--cfg", "-c", "--info", "-i", "--package", "-p", "--experimental-rerun"),
    *("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"),
)


def prepare_hydra() -> dict[str, bool]:
    """Set the environment that conf/ reads, tell Hydra the schema, and return the text keys."""
    os.environ.setdefault("TUNETRAIL_HOME", str(Path.cwd()))
    os.environ["TUNETRAIL_SHIPPED"] = str(experiments_dir().parent)
    # Hydra then raises its errors, instead of printing a traceback and exiting.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    return register_schema()


def compose_config(overrides: Sequence[str]) -> Any:
    """Return the composed configuration without Hydra's own part; the schema is registered."""
    return compose_with_hydra(overrides)[0]


def compose_with_hydra(overrides: Sequence[str]) -> tuple[Any, Any]:
    """Return the composed configuration, and Hydra's own part of it; the schema is registered."""
    from hydra import compose
    from omegaconf import open_dict

    from tunetrail.cli.remembered_configs import initialized_hydra

    with initialized_hydra():
        config = compose("train", list(overrides), return_hydra_config=True)
    hydra = config.hydra
    with open_dict(config):
        del config["hydra"]
    return config, hydra


def register_schema() -> dict[str, bool]:
    """Tell Hydra the schema and how to read experiment files, and return the text keys.

    The names of groups are text keys, too: an experiment may be called 2026_11_24.
    """
    from hydra.core.config_store import ConfigStore

    from tunetrail.cli.text_values import TypedFileSource, text_keys

    keys = text_keys(TrainRequest) | dict.fromkeys(groups(), True)
    TypedFileSource.keys = keys
    _register_once()
    _store_extensions(ConfigStore.instance())
    return keys


@functools.cache
def _register_once() -> None:
    """Tell Hydra what stays the same in this process: it takes a tenth of a second."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    from tunetrail.cli.text_values import TypedFileSource
    from tunetrail.sweeps.launchers import register_launchers
    from tunetrail.sweeps.sweeper import register_sweeper

    Plugins.instance().register(TypedFileSource)
    register_launchers()
    register_sweeper()
    ConfigStore.instance().store(name="train_schema", node=TrainRequest)
    OmegaConf.register_new_resolver("tunetrail.name", _shown_sessions, replace=True)


def _store_extensions(store: Any) -> None:
    """Tell Hydra the callbacks and loggers of installed packages, as options of their groups."""
    shipped = shipped_groups()
    for group, point in EXTENDED_GROUPS.items():
        for name in point.names():
            if name not in shipped[group]:
                # The groups are called after the sections of the trainer.
                node = {"trainer": {group: {name: {TARGET: name}}}}
                store.store(group=group, name=name, node=node, package="_global_")


def _shown_sessions(session_id: Any) -> str:
    """Return the sessions of a request as one name, for a folder."""
    return session_id if isinstance(session_id, str) else name_of_sessions(session_id)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the overrides and Hydra's options: its parser takes overrides in one piece only."""
    overrides, options = [], []

    previous = ""
    for argument in arguments:
        # The value of `--info` is optional: an override may follow it directly.
        is_value = previous in _OPTIONS_WITH_VALUE and "=" not in argument
        if argument.startswith("-") or is_value:
            options.append(argument)
        else:
            overrides.append(argument)
        previous = argument

    return overrides, options


def checked_request(config: Any) -> TrainRequest:
    """Return the typed request of a composed configuration.

    Raises:
        ConfigError: A key is unknown (Hydra accepts `+typo=1`), an experiment was not found,
            session_id is missing, or a value is out of range.
    """
    from omegaconf import OmegaConf

    composed: Any = OmegaConf.to_container(config)
    # An experiment that was found leaves no key: only an unknown name is still there.
    if "experiments" in composed:
        name = composed["experiments"]
        raise ConfigError(
            f"experiments must be one of {', '.join(experiment_names()) or '(none here)'}, "
            f"got {name!r}: no file experiments/{name}.yaml in "
            f"{os.environ.get('TUNETRAIL_HOME', '.')} or among tunetrail's own. "
            "Write +experiments=NAME."
        )
    _check_known_keys(composed, TrainRequest)
    # Before interpolations are resolved: `prepared/${session_id}` would fail less readably.
    if OmegaConf.is_missing(config, "session_id"):
        raise ConfigError(NO_SESSION)

    typed: Any = config
    # Hydra has typed it by the schema, unless a folder of the user's own has another train.yaml.
    if OmegaConf.get_type(config) is not TrainRequest:
        plain_values = OmegaConf.to_container(config, resolve=True)
        typed = OmegaConf.merge(OmegaConf.structured(TrainRequest), plain_values)
    # Both models have a section `training`, whose checks don't know which of them it belongs to.
    for section in MODEL_SECTIONS:
        with naming_section(section):
            OmegaConf.to_object(typed[section].training)

    request = OmegaConf.to_object(typed)
    assert isinstance(request, TrainRequest)
    return request


def _check_known_keys(config: Mapping[Any, Any], schema: Any, prefix: str = "") -> None:
    """Raise `ConfigError` for a key that the schema doesn't have, or a section given as a value."""
    known_fields = {field.name: field for field in fields(schema)}

    for name, value in config.items():
        key = f"{prefix}{name}"
        if name not in known_fields:
            suggestion = did_you_mean_key(key, tuple(groups()))
            raise ConfigError(
                f"there is no key {key}.{suggestion} Known here: {', '.join(known_fields)}."
            )

        field = known_fields[name]
        # Below a mapping, names are the user's own.
        if get_origin(field.type) is dict:
            continue
        if isinstance(value, Mapping) and is_dataclass(field.type):
            _check_known_keys(value, field.type, f"{key}.")
        elif isinstance(value, Mapping):
            raise ConfigError(
                f"{key} must be a single value, got {dict(value)!r}; "
                f"its default is {field.default!r}."
            )
