"""The groups of conf/, their options and the experiments: read from the folders, without Hydra."""

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tunetrail.config.keys import all_settings
from tunetrail.extensions import CALLBACKS, LOGGERS
from tunetrail.paths import conf_dir, experiments_dir

EXPERIMENTS = "experiments"
"""The group of the experiments, which a plus adds."""
SWEEP = "sweep"
"""The group that only a sweep has: without a default, so that a plus adds it."""


EXTENDED_GROUPS = {"callbacks": CALLBACKS, "logger": LOGGERS}
"""Groups of which an installed package's extension is an option by its name."""


def is_open_key(key: str) -> bool:
    """Tell whether a key stands below a mapping of names, such as `trainer.callbacks`."""
    mappings = (name for name, setting in all_settings().items() if setting.is_mapping)
    return any(key.startswith(f"{name}.") for name in mappings)


def groups() -> dict[str, list[str]]:
    """Return the options of each group in alphabetical order, `experiments` last.

    Callbacks and loggers that installed packages add are options of their groups.
    """
    options = shipped_groups()
    for group, point in EXTENDED_GROUPS.items():
        options[group] = sorted({*options[group], *point.names()})
    return {**options, EXPERIMENTS: experiment_names()}


def shipped_groups() -> dict[str, list[str]]:
    """Return the options of each group that conf/ itself has."""
    return {folder.name: yaml_names(folder) for folder in group_folders()}


@cache
def default_options() -> dict[str, str]:
    """Return the option that each group has by default, in the order of conf/train.yaml."""
    import yaml

    defaults: dict[str, str] = {}
    for entry in yaml.safe_load((conf_dir() / "train.yaml").read_text("utf-8"))["defaults"]:
        if isinstance(entry, dict):
            defaults.update(entry)
    return {group: option for group, option in defaults.items() if "/" not in group}


def option_comment(group: str, option: str) -> str:
    """Return the comment that opens an option's file, without Hydra's package line."""
    folders = [conf_dir()]
    if group == EXPERIMENTS:
        folders = [Path(os.environ.get("TUNETRAIL_HOME", ".")), experiments_dir().parent]
    files = [folder / group / f"{option}.yaml" for folder in folders]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        point = EXTENDED_GROUPS[group]
        return f"The {point.noun} {option} of the package {point.packages(option)}."

    comments = []
    for line in file.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            comments.append(line.removeprefix("#").strip())
    return " ".join(comments)


def groups_help() -> list[str]:
    """Return the lines of a command's help that list the groups, their options and experiments."""
    lines = ["groups and their options (conf/):"]
    for group, options in groups().items():
        name = f"+{group}" if group in (SWEEP, EXPERIMENTS) else group
        lines.append(f"  {name:20} {', '.join(options)}")
    return lines


def experiment_names() -> list[str]:
    """Return the names of tunetrail's experiments and of those in the current folder."""
    here = Path(os.environ.get("TUNETRAIL_HOME", ".")) / EXPERIMENTS
    return sorted({*yaml_names(here), *yaml_names(experiments_dir())})


def shadowed_experiments(overrides: Sequence[str]) -> list[Path]:
    """Return the experiments of tunetrail's own that a file of the current folder replaces.

    Args:
        overrides: The overrides of a command, of which some may name experiments.
    """
    here = Path(os.environ.get("TUNETRAIL_HOME", ".")) / EXPERIMENTS
    # In a checkout, they are the same files.
    if here.resolve() == experiments_dir().resolve():
        return []

    chosen: set[str] = set()
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key == EXPERIMENTS:
            chosen.update(re.findall(r"[^\s,\[\]'\"]+", value))
    both = chosen & set(yaml_names(here)) & set(yaml_names(experiments_dir()))
    return [here / f"{name}.yaml" for name in sorted(both)]


def group_folders() -> list[Path]:
    """Return the folders of the groups in alphabetical order."""
    folders = (path for path in conf_dir().iterdir() if path.is_dir())
    return sorted(folder for folder in folders if not folder.name.startswith("_"))


def yaml_names(folder: Path) -> list[str]:
    """Return the names of the YAML files of a folder, without their endings."""
    return sorted(file.stem for file in folder.glob("*.yaml"))
