"""`tunetrail train`: Hydra composes the configuration, the node does the work. The only place that starts Hydra."""

import logging
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from tunetrail.config import MODEL_TYPES, SWEEP_RUN_VARIABLE, SWEPT_KEYS_VARIABLE, Settings
from tunetrail.errors import ConfigError, did_you_mean
from tunetrail.paths import conf_dir, experiments_dir

MISSING = "???"


@dataclass(kw_only=True)
class TrainRequest(Settings):
    """The schema of conf/train.yaml: the settings, the session and the model type."""

    session_id: str = MISSING
    model_type: str = "all"


def train(arguments: list[str]) -> int:
    """Run `tunetrail train` with Hydra's arguments; `-m` sweeps over every combination of comma-separated values."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    os.environ.setdefault("TUNETRAIL_HOME", str(Path.cwd()))
    os.environ["TUNETRAIL_SHIPPED"] = str(experiments_dir().parent)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands errors on instead of printing a traceback and leaving
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="train_schema", node=TrainRequest)
    original = list(sys.argv)
    failures: list[Exception] = []

    def task(config: Any) -> Mapping[str, Any]:
        sys.argv = original  # Lightning's ddp starts its processes with it
        _quieten()
        try:
            return _train_one(config)
        except Exception as error:
            if SWEEP_RUN_VARIABLE in os.environ:
                raise  # Hydra goes on with the sweep's other jobs and names the failed one
            failures.append(error)
            return {}

    # -m may stand anywhere; argparse would take the overrides behind it for unknown arguments
    sys.argv = [original[0], *sorted(arguments, key=lambda each: each not in ("-m", "--multirun"))]
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(task)()
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
        _end_sweep_that_stopped()
    return 0


def help_text() -> str:
    """Return what `tunetrail train --help` prints: usage, the groups of conf/ and their options, the experiments."""
    groups = sorted(path for path in conf_dir().iterdir() if path.is_dir() and not path.name.startswith("_"))
    lines = [
        "usage: tunetrail train session_id=ID [model_type=embedding|llm|all] [GROUP=OPTION ...] [KEY=VALUE ...] [-m]",
        "",
        "Trains on a session, compares the result with root, registers it, moves root where it is measurably better.",
        "",
        "examples:",
        "  tunetrail train session_id=s1 model_type=embedding embedding=minilm embedding.training.learning_rate=3e-5",
        "  tunetrail train session_id=s1 +experiments=quick",
        "  tunetrail train -m session_id=s1 model_type=embedding embedding.training.learning_rate=1e-5,3e-5",
        "",
        "groups and their options (conf/):",
        *(f"  {group.name:20} {', '.join(sorted(file.stem for file in group.glob('*.yaml')))}" for group in groups),
        f"  {'+experiments':20} {', '.join(_experiments())}",
        "",
        "--cfg job prints the composed configuration; -m trains once per combination; --debug shows tracebacks.",
    ]
    return "\n".join(lines)


def checked_request(config: Any) -> TrainRequest:
    """Return the typed request of a composed configuration.

    Raises:
        ConfigError: A key that the schema doesn't have (Hydra accepts `+typo=1`), an experiment that was not found, a
            missing session_id, or a value that is out of range.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    _check_known(plain, TrainRequest, "")
    if plain["session_id"] == MISSING:
        raise ConfigError("session_id must be given: tunetrail train session_id=ID. `tunetrail sessions` lists them.")
    request = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainRequest), plain))
    assert isinstance(request, TrainRequest)
    return request


def _train_one(config: Any) -> Mapping[str, Any]:
    from hydra.core.hydra_config import HydraConfig

    request = checked_request(config)
    from tunetrail.cli.report import print_results
    from tunetrail.node import ModelTrainingNode, NodeConfig
    from tunetrail.stores.database import DatabaseManager

    swept = os.environ.get(SWEPT_KEYS_VARIABLE, "").split(",")
    choices = [each for each in HydraConfig.get().overrides.task if each.partition("=")[0] in swept]
    with DatabaseManager(request.database.url) as manager:
        node = ModelTrainingNode(
            NodeConfig(settings=request),
            manager,
            parent_run_id=os.environ.get(SWEEP_RUN_VARIABLE),
            run_name=", ".join(choices) or None,
        )
        results = node.execute({"session_id": request.session_id, "model_type": request.model_type})
    print_results(results, request.tracking.uri)
    return results


def _quieten() -> None:
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
                f"experiments must be one of {', '.join(_experiments()) or '(none here)'}, got {value!r}: "
                f"no file experiments/{value}.yaml in {os.environ.get('TUNETRAIL_HOME', '.')} "
                "or among tunetrail's own. Write +experiments=NAME."
            )
        if key not in known:
            raise ConfigError(
                f"there is no key {prefix}{key}.{did_you_mean(str(key), known)} Known here: {', '.join(known)}."
            )
        section = known[key].type
        if isinstance(value, Mapping) and is_dataclass(section):
            _check_known(value, section, f"{prefix}{key}.")
        elif isinstance(value, Mapping):
            default = known[key].default
            raise ConfigError(f"{prefix}{key} must be a single value, got {dict(value)!r}; its default is {default!r}.")


def _experiments() -> list[str]:
    folders = (Path(os.environ.get("TUNETRAIL_HOME", ".")) / "experiments", experiments_dir())
    return sorted({file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")})


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
    wrong = re.search(r"Key '([^']+)' (?:is )?not in|Could not override '([^']+)'", text)
    if wrong:
        key = (wrong.group(1) or wrong.group(2)).rpartition(".")[2]
        text += did_you_mean(key, _all_keys(TrainRequest))
    return text


def _wrong_option(arguments: list[str]) -> str:
    """Return what is wrong with the first group that was given something other than the name of one of its options."""
    for argument in arguments:
        group, _, option = argument.partition("=")
        known = sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))
        if known and option not in known:
            return f"{group} must be one of {', '.join(known)}, got {option}.{did_you_mean(option, known)}"
    return "a config group takes the name of one of its options, as in embedding=minilm."


def _all_keys(schema: Any) -> set[str]:
    keys: set[str] = set(MODEL_TYPES)
    for each in fields(schema):
        keys.add(each.name)
        if is_dataclass(each.type):
            keys |= _all_keys(each.type)
    return keys


def _end_sweep_that_stopped() -> None:
    """End the sweep's run where a failed or stopped job kept Hydra from saying that the multirun is over."""
    if SWEEP_RUN_VARIABLE in os.environ and sys.exc_info()[0] is not None:
        from tunetrail.sweeps.sweep_run import end_sweep

        end_sweep("failed" if isinstance(sys.exc_info()[1], Exception) else "interrupted", str(sys.exc_info()[1]))
