"""Compose one typed request from conf/, experiments and the arguments, with Hydra.

This is the only module that starts Hydra.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_origin

from tunetrail.cli.conf_groups import OPEN_SECTIONS, experiment_names, groups
from tunetrail.cli.override_keys import check_keys
from tunetrail.cli.spellings import check_hydra_options
from tunetrail.cli.unused_settings import warn_of_unused
from tunetrail.config import MODEL_SECTIONS, TrainRequest, name_of_sessions
from tunetrail.config.key_suggestions import did_you_mean_key
from tunetrail.config.synonyms import words_of
from tunetrail.errors import ConfigError, did_you_mean, naming_section, not_writable
from tunetrail.paths import conf_dir, experiments_dir
from tunetrail.sweeps import FinishSweep, SweepHooks, SweepNotStarted, check_folder
from tunetrail.verbosity import quieten

NO_HYDRA_FILES = (
    "hydra.run.dir=.",
    "hydra.job_logging.root.handlers=[console]",
    "~hydra.job_logging.handlers.file",
)
"""Overrides that keep Hydra from making a folder and a log before the request is checked."""
_OPTIONS_WITH_VALUE = (
    *("--cfg", "-c", "--info", "-i", "--package", "-p", "--experimental-rerun"),
    *("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"),
)
logger = logging.getLogger(__name__)
_VARIABLES = {
    "MLFLOW_TRACKING_URI": ("tracking=server", "tracking.uri", "http://HOST:5000"),
    "TUNETRAIL_DATABASE_URL": (
        "database=postgres",
        "database.url",
        "postgresql+psycopg://USER:PASSWORD@HOST/NAME",
    ),
}
"""The environment variables that conf/ reads: the group, the key that it sets, and an example."""

_NO_SESSION = "session_id must be given, as in session_id=ID. `tunetrail sessions` lists them."


def run_composed(
    arguments: Sequence[str],
    task: Callable[[TrainRequest, Sequence[str]], Mapping[str, Any]],
    *,
    finish_sweep: FinishSweep | None = None,
    job_name: str = "train",
    defaults: Sequence[str] = (),
) -> None:
    """Compose conf/train.yaml with the arguments and run the task, once for each job of a sweep.

    Args:
        arguments: Overrides and Hydra's own options, in any order; `-m` makes a sweep of them.
        task: Takes the checked request and the overrides that led to it.
        finish_sweep: Decides about a sweep whose jobs have ended; None if the task can't be swept.
        job_name: Names the log file.
        defaults: Overrides that apply unless the arguments say otherwise.

    Raises:
        ConfigError: The arguments or an experiment file can't be composed.
        SweepError: Jobs of a sweep have failed.
    """
    text_keys = prepare_hydra()
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from tunetrail.cli.text_values import keep_text, without_quotes
    from tunetrail.sweeps.sweeper import TunetrailSweeper

    original_arguments = list(sys.argv)
    task_started = is_sweep = False
    failures: list[Exception] = []

    def check(config: Any) -> TrainRequest:
        nonlocal is_sweep
        quieten()
        request = checked_request(config)
        # It is called for each job, all of which have the same model type.
        if not is_sweep:
            warn_of_unused(request, overrides)
        is_sweep = True
        return request

    def run_one(config: Any) -> Mapping[str, Any]:
        nonlocal task_started
        task_started = True
        sys.argv = original_arguments  # Lightning's ddp starts its processes with them
        quieten()
        try:
            job_overrides = list(map(without_quotes, HydraConfig.get().overrides.task))
            check_folder(HydraConfig.get().job.chdir)
            request = checked_request(config)
            if not is_sweep:
                warn_of_unused(request, job_overrides)
            return task(request, job_overrides)
        except Exception as error:
            if is_sweep:
                logger.error("job %s failed: %s", config.sweep.job, error)
                raise  # the sweep notes it, and goes on with the other jobs
            failures.append(error)
            return {}

    overrides, options = split_arguments(arguments)
    check_hydra_options(options)
    check_keys(overrides)
    overrides = [keep_text(override, text_keys) for override in overrides]
    TunetrailSweeper.hooks = SweepHooks(check, finish_sweep, [*overrides, *options])
    job_defaults = [f"hydra.job.name={job_name}", *defaults]
    sys.argv = [original_arguments[0], *job_defaults, *overrides, *options]

    start = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")
    try:
        with readable_errors():
            if _prints_configuration(options):
                _check_printed([*job_defaults, *overrides])
            start(run_one)()
            if failures:
                raise failures[0]
    except SweepNotStarted as refusal:
        raise refusal.error from refusal
    except OSError as error:
        # Once the task has started, an OSError is about its files and not about Hydra's folders.
        if task_started or not error.filename:
            raise
        # Hydra makes the folders of its logs below output_dir, unless it was told another place.
        hydra_folders = ("hydra.run.dir=", "hydra.sweep.dir=")
        moved = [override for override in overrides if override.startswith(hydra_folders)]
        key = moved[0].partition("=")[0] if moved else "output_dir"
        raise not_writable(key, error.filename, error) from error
    finally:
        sys.argv = original_arguments


def prepare_hydra() -> dict[str, bool]:
    """Set the environment that conf/ reads, tell Hydra the schema, and return the text keys."""
    os.environ.setdefault("TUNETRAIL_HOME", str(Path.cwd()))
    os.environ["TUNETRAIL_SHIPPED"] = str(experiments_dir().parent)
    # Hydra then raises its errors, instead of printing a traceback and exiting.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    return register_schema()


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Raise `ConfigError`, in one line, for what Hydra and OmegaConf raise."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(error)) from error
    except ValueError as error:
        # Hydra raises these two as plain ValueErrors; any other one is a bug and stays as it is.
        if "Config group override must be" in str(error):
            advice = "a config group takes the name of one of its options, as in embedding=minilm."
            raise ConfigError(advice) from error
        if "--multirun" in str(error):
            raise ConfigError(str(error)) from error
        raise


def _prints_configuration(options: Sequence[str]) -> bool:
    """Tell whether Hydra only prints a configuration, and finds it as we do."""
    names = {option.partition("=")[0] for option in options}
    elsewhere = {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"}
    # Hydra refuses to print the configurations of a sweep.
    return bool(names & {"--cfg", "-c"}) and not names & {"-m", "--multirun", *elsewhere}


def _check_printed(overrides: Sequence[str]) -> None:
    """Check a configuration as a run does, except that it may lack a session."""
    from omegaconf import OmegaConf, open_dict

    config = compose_config(overrides)
    if OmegaConf.is_missing(config, "session_id"):
        with open_dict(config):
            config.session_id = "none"
    checked_request(config)


def compose_config(overrides: Sequence[str]) -> Any:
    """Return the composed configuration without Hydra's own part; the schema is registered."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", list(overrides))


def register_schema() -> dict[str, bool]:
    """Tell Hydra the schema and how to read experiment files, and return the text keys.

    The names of groups are text keys, too: an experiment may be called 2026_11_24.
    """
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    from tunetrail.cli.text_values import TypedFileSource, text_keys
    from tunetrail.sweeps.launchers import register_launchers
    from tunetrail.sweeps.sweeper import register_sweeper

    keys = text_keys(TrainRequest) | dict.fromkeys(groups(), True)

    TypedFileSource.keys = keys
    Plugins.instance().register(TypedFileSource)
    register_launchers()
    register_sweeper()
    ConfigStore.instance().store(name="train_schema", node=TrainRequest)
    OmegaConf.register_new_resolver("tunetrail.name", _shown_sessions, replace=True)
    return keys


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
        raise ConfigError(_NO_SESSION)

    plain_values = OmegaConf.to_container(config, resolve=True)
    merged: Any = OmegaConf.merge(OmegaConf.structured(TrainRequest), plain_values)
    # Both models have a section `training`, whose checks don't know which of them it belongs to.
    for section in MODEL_SECTIONS:
        with naming_section(section):
            OmegaConf.to_object(merged[section].training)

    request = OmegaConf.to_object(merged)
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


def _explained(error: Exception) -> str:
    """Return Hydra's or OmegaConf's message in one line, with the nearest known key or option."""
    messages = [str(error), str(error.__cause__ or "")]
    text = " ".join(" ".join(messages).split())
    whole_key = re.search(r"full_key: ([^\s\[]+)", text)
    # Hydra's internals say nothing to a user, and its advice to add the key with + is wrong:
    # `checked_request` refuses unknown keys.
    text = re.sub(r"\s*(full_key|object_type|reference_type)[:=]\S*", "", text)
    text = re.sub(r" To append to your config use \+\S+", "", text)
    text = re.sub(r" Config search path:.*", "", text)

    # Hydra has resolved a folder that is called after the session.
    if "Missing mandatory value: session_id" in text:
        return _NO_SESSION

    variable = re.search(r"Environment variable '([^']+)' not found", text)
    if variable:
        return _absent_variable(variable[1])

    # Without a package header, the keys of a file go below the group that it was chosen from.
    experiment = re.search(r"In '(experiments/[^']+)': .*Key 'experiments' not in", text)
    if experiment:
        return (
            f"{experiment[1]}.yaml must say that its keys belong to the whole configuration: "
            f"add `# @package _global_` as the first line of {experiment[1]}.yaml."
        )

    option = re.search(
        r"Could not find '([^'/]+)/([^']+)' Available options in '[^']+': (.+)", text
    )
    if option:
        words = words_of(option[1])
        return f"{text}.{did_you_mean(option[2], option[3].split(), words)}"

    assigned = re.search(r"override \+*(trainer\.(?:callbacks|logger))\S*=.*Cannot assign", text)
    if assigned:
        key_of_class = f"+{assigned[1]}.NAME._target_=CLASS"
        return f"{assigned[1]} must be a mapping of names to classes. Write {key_of_class}."

    wrong_name = re.search(r"Key '([^']+)' (?:is )?not in", text)
    key = re.search(r"Could not override '([^']+)'", text) or wrong_name
    if key and key[1].startswith(OPEN_SECTIONS):
        return f"{key[1]} must have a plus in front, since it is new: +{key[1]}=VALUE."
    if key and wrong_name:
        unknown_key = whole_key[1] if whole_key else key[1]
        return f"there is no key {unknown_key}.{did_you_mean_key(unknown_key, tuple(groups()))}"
    return f"{text}{did_you_mean_key(key[1], tuple(groups()))}" if key else text


def _absent_variable(name: str) -> str:
    """Return that the configuration needs an environment variable, with the way out."""
    group, key, example = _VARIABLES.get(name, ("the configuration", "its key", "VALUE"))
    return (
        f"{name} must be set in the environment for {group}, got none. "
        f"Write export {name}={example}, or set {key} instead."
    )
