"""Composition: Hydra makes one typed request of conf/, arguments and experiments. The only place that starts Hydra."""

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from tunetrail.config import MODEL_SECTIONS, SWEEP_RUN_VARIABLE, Settings
from tunetrail.errors import ConfigError, did_you_mean, naming_section
from tunetrail.paths import conf_dir, experiments_dir

MISSING = "???"


@dataclass(kw_only=True)
class TrainRequest(Settings):
    """The schema of conf/train.yaml: the settings, the session and the model type."""

    session_id: str = MISSING
    """Session to learn from, which has to be named; `tunetrail sessions` lists them."""

    model_type: str = "all"
    """Models to train: `embedding`, `llm` or `all`."""


def run_composed(
    arguments: Sequence[str],
    task: Callable[[TrainRequest, Sequence[str]], Mapping[str, Any]],
    *,
    job_name: str = "train",
    defaults: Sequence[str] = (),
) -> None:
    """Compose conf/train.yaml with Hydra's arguments and run the task on the request, once for each job of a sweep.

    Args:
        arguments: Overrides and Hydra's own options; `-m` sweeps over every combination of comma-separated values.
        task: Takes the checked request and the overrides that made it.
        job_name: Names the log file.
        defaults: Overrides that those of the arguments go over.

    Raises:
        ConfigError: Something of the arguments can't be composed.
    """
    os.environ.setdefault("TUNETRAIL_HOME", str(Path.cwd()))
    os.environ["TUNETRAIL_SHIPPED"] = str(experiments_dir().parent)
    os.environ["HYDRA_FULL_ERROR"] = (
        "1"  # Hydra hands errors on instead of printing a traceback and leaving
    )
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="train_schema", node=TrainRequest)
    original = list(sys.argv)
    failures: list[Exception] = []

    def run_one(config: Any) -> Mapping[str, Any]:
        sys.argv = original  # Lightning's ddp starts its processes with it
        quieten()
        try:
            return task(checked_request(config), list(HydraConfig.get().overrides.task))
        except Exception as error:
            if SWEEP_RUN_VARIABLE in os.environ:
                raise  # Hydra goes on with the sweep's other jobs and names the failed one
            failures.append(error)
            return {}

    sys.argv = [original[0], *_ordered(arguments, [f"hydra.job.name={job_name}", *defaults])]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(run_one)()
        if failures:
            raise failures[0]
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(error)) from error
    except ValueError as error:
        if "Config group override must be" in str(error):
            raise ConfigError(_wrong_option(arguments)) from error
        if "--multirun" in str(error):
            raise ConfigError(str(error)) from error
        raise
    finally:
        sys.argv = original


def _ordered(arguments: Sequence[str], defaults: Sequence[str]) -> list[str]:
    """Return the arguments with the defaults before the first override, and `-m` in front of all.

    Hydra's parser takes overrides in one piece only: those behind an option that stands between them are unknown to it.
    """
    words = sorted(arguments, key=lambda each: each not in ("-m", "--multirun"))
    first = next(
        (number for number, word in enumerate(words) if "=" in word and not word.startswith("-")), 0
    )
    return [*words[:first], *defaults, *words[first:]]


def checked_request(config: Any) -> TrainRequest:
    """Return the typed request of a composed configuration.

    Raises:
        ConfigError: A key that the schema doesn't have (Hydra accepts `+typo=1`), an experiment that was not found, a
            missing session_id, or a value that is out of range.
    """
    from omegaconf import OmegaConf

    _check_known(OmegaConf.to_container(config), TrainRequest, "")  # type: ignore[arg-type]
    if OmegaConf.is_missing(config, "session_id"):
        raise ConfigError(
            "session_id must be given, as in session_id=ID. `tunetrail sessions` lists them."
        )
    plain = OmegaConf.to_container(config, resolve=True)
    merged: Any = OmegaConf.merge(OmegaConf.structured(TrainRequest), plain)
    for section in MODEL_SECTIONS:
        with naming_section(section):
            OmegaConf.to_object(merged[section].training)
    request = OmegaConf.to_object(merged)
    assert isinstance(request, TrainRequest)
    return request


def quieten() -> None:
    """Keep other libraries' chatter out of the terminal; their warnings still come through."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("mlflow", "sentence_transformers", "alembic", "httpx", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # it asks the hub for a model card and a licence of every model, local folders included
    logging.getLogger("mlflow.transformers").setLevel(logging.ERROR)
    # it prints the traceback of every database error that it raises anyway
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def _check_known(given: Mapping[Any, Any], schema: Any, prefix: str) -> None:
    known = {each.name: each for each in fields(schema)}
    for key, value in given.items():
        if key == "experiments" and not prefix:
            raise ConfigError(
                f"experiments must be one of {', '.join(experiments()) or '(none here)'}, got {value!r}: "
                f"no file experiments/{value}.yaml in {os.environ.get('TUNETRAIL_HOME', '.')} "
                "or among tunetrail's own. Write +experiments=NAME."
            )
        if key not in known:
            raise ConfigError(
                f"there is no key {prefix}{key}.{_nearest_key(f'{prefix}{key}', str(key))} "
                f"Known here: {', '.join(known)}."
            )
        section = known[key].type
        if isinstance(value, Mapping) and is_dataclass(section):
            _check_known(value, section, f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            default = known[key].default
            raise ConfigError(
                f"{prefix}{key} must be a single value, got {dict(value)!r}; its default is {default!r}."
            )


def experiments() -> list[str]:
    """Return the names of the experiments of the folder that tunetrail is started in and of those that come with it."""
    folders = (Path(os.environ.get("TUNETRAIL_HOME", ".")) / "experiments", experiments_dir())
    return sorted(
        {file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")}
    )


def _explained(error: Exception) -> str:
    """Return Hydra's or OmegaConf's message in one line, with the nearest known key."""
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    text = " ".join(" ".join(str(each).split()) for each in causes)
    text = re.sub(r"\s*(full_key|object_type|reference_type)[:=]\S*", "", text)
    text = re.sub(r" To append to your config use \+\S+", "", text)
    text = re.sub(r" Config search path:.*", "", text)
    option = re.search(r"Could not find '[^'/]+/([^']+)' Available options in '[^']+': (.+)", text)
    if option:
        return f"{text}.{did_you_mean(option.group(1), option.group(2).split())}"
    wrong = re.search(r"Key '([^']+)' (?:is )?not in", text)
    key = re.search(r"Could not override '([^']+)'", text) or wrong
    if key:
        text += _nearest_key(key.group(1), wrong.group(1) if wrong else "")
    return text


def _wrong_option(arguments: Sequence[str]) -> str:
    """Return what is wrong with the first group that was given something other than the name of one of its options."""
    for argument in arguments:
        group, _, option = argument.partition("=")
        known = sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
        if known and option not in known:
            return f"{group} must be one of {', '.join(known)}, got {option}.{did_you_mean(option, known)}"
    return "a config group takes the name of one of its options, as in embedding=minilm."


def _nearest_key(given: str, wrong: str = "") -> str:
    """Return ` Did you mean 'a.b' or 'c.b'?` for the keys nearest to a given one, of which one name may be wrong."""
    names, keys = given.split("."), _all_keys(TrainRequest)
    place = names.index(wrong) if wrong in names else len(names) - 1
    section, rest = ".".join(names[:place]), "".join(f".{name}" for name in names[place + 1 :])
    by_name: dict[str, list[str]] = {}
    for key in keys:
        by_name.setdefault(key.rpartition(".")[2], []).append(key)
    nearest = difflib.get_close_matches(names[place], by_name, n=1)
    if not nearest:
        return ""
    found = by_name[nearest[0]]
    beside = [key for key in found if key.rpartition(".")[0] == section]
    within = [key for key in found if section and key.startswith(f"{section.partition('.')[0]}.")]
    suggested = [
        f"{key}{rest}" if f"{key}{rest}" in keys else key for key in beside or within or found
    ]
    return f" Did you mean {' or '.join(map(repr, suggested[:3]))}?"


def _all_keys(schema: Any, prefix: str = "") -> list[str]:
    keys = []
    for each in fields(schema):
        keys.append(f"{prefix}{each.name}")
        if is_dataclass(each.type):
            keys += _all_keys(each.type, f"{prefix}{each.name}.")
    return keys


def groups_help() -> list[str]:
    """Return the lines of a command's help that list the groups of conf/, their options and the experiments."""
    groups = sorted(
        path for path in conf_dir().iterdir() if path.is_dir() and not path.name.startswith("_")
    )
    return [
        "groups and their options (conf/):",
        *(
            f"  {group.name:20} {', '.join(sorted(file.stem for file in group.glob('*.yaml')))}"
            for group in groups
        ),
        f"  {'+experiments':20} {', '.join(experiments())}",
    ]
