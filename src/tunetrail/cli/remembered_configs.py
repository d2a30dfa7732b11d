"""Compose a command's configuration: what conf/ says is composed once in a process.

A notebook and a test suite call many commands in one process; Hydra reads thirty files for each of
them. From the second one on, they are remembered. This module uses Hydra's internals, written for
Hydra 1.3, as `tunetrail.sweeps.job_configs` does for the jobs of a sweep.
tests/unit/cli/test_remembered_configs.py compares all kinds of overrides with Hydra's own
compositions.
"""

import contextlib
import copy
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.types import RunMode
from omegaconf import DictConfig

from tunetrail.paths import conf_dir
from tunetrail.sweeps.job_configs import note_overrides, split_values

Memory = dict[tuple[Any, ...], DictConfig]
"""Compositions of conf/ before single values are set, the least recently used one first."""

# Each is a megabyte or two.
_MOST_COMPOSITIONS = 8
_MEMORY: Memory = {}
_EARLIER_COMMANDS = itertools.count()
# What Hydra calls the folders that conf/train.yaml adds to conf/.
_SEARCHED = "hydra.searchpath in main"
# Overrides of Hydra that make a composition depend on more than conf/.
_DEPENDENT = ("hydra.job.env_copy", "hydra.searchpath")


@contextlib.contextmanager
def initialized_hydra() -> Iterator[Any]:
    """Initialise Hydra with conf/, and yield the object that composes and runs."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra: Any = GlobalHydra.instance().hydra
        # Most processes compose once: they would copy a composition, and never use the original.
        if next(_EARLIER_COMMANDS) > 0:
            hydra.config_loader = RememberingLoader(hydra.config_loader, conf_dir(), _MEMORY)
        yield hydra


class RememberingLoader(ConfigLoaderImpl):
    """Hydra's loader of configurations, with a memory for commands that differ in values only.

    Only compositions of the files in conf/ are remembered, and as long as none of these files
    changes. An experiment, or whatever else a user's folder adds, may depend on the environment and
    is composed each time.

    Args:
        loader: The loader that Hydra has made.
        folder: The folder of the files, conf/.
        memory: Earlier compositions.
    """

    def __init__(self, loader: ConfigLoader, folder: Path, memory: Memory) -> None:
        super().__init__(loader.get_search_path())
        self._folder = folder
        self._memory = memory

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        parsed = OverridesParser.create().parse_overrides(overrides)
        values, others = split_values(parsed, self._is_group)
        if run_mode != RunMode.RUN or not all(map(self._only_chooses_from_folder, others)):
            return super()._load_configuration_impl(
                config_name, overrides, run_mode, from_shell, validate_sweep_overrides
            )

        lines = [str(override.input_line) for override in others]
        key = (config_name, _state_of_files(self._folder), *lines)
        remembered = self._memory.pop(key, None)
        if remembered is None:
            remembered = super()._load_configuration_impl(config_name, lines, run_mode, from_shell)
        # Last in the order, from which the least recently used one goes.
        self._memory[key] = remembered
        if len(self._memory) > _MOST_COMPOSITIONS:
            del self._memory[next(iter(self._memory))]

        config = copy.deepcopy(remembered)
        _note_place(config)
        self._apply_overrides_to_config(values, config)
        note_overrides(config, parsed)
        return config

    def _is_group(self, key: str) -> bool:
        """Tell whether a key is a group: one of Hydra's, or a folder where commands look."""
        # As in conf/train.yaml.
        searched = [os.environ.get(f"TUNETRAIL_{name}", ".") for name in ("HOME", "SHIPPED")]
        folders = (self._folder, *map(Path, searched))
        return "/" in key or any((folder / key).is_dir() for folder in folders)

    def _only_chooses_from_folder(self, override: Override) -> bool:
        """Tell whether an override sets a value of Hydra's, or chooses a file in conf/."""
        line = str(override.input_line)
        if override.is_hydra_override():
            return "/" not in override.key_or_group and not any(key in line for key in _DEPENDENT)
        if override.type != OverrideType.CHANGE or override.package is not None:
            return False
        option = None if override.is_sweep_override() else override.value()
        is_name = isinstance(option, str)
        return is_name and (self._folder / override.key_or_group / f"{option}.yaml").is_file()


def _state_of_files(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return path, time and size of each file of conf/."""
    states = []
    for file in sorted(folder.rglob("*.yaml")):
        status = file.stat()
        states.append((str(file), status.st_mtime_ns, status.st_size))
    return tuple(states)


def _note_place(config: DictConfig) -> None:
    """Write into a configuration where the process is now, as Hydra's loader does."""
    runtime = config.hydra.runtime
    runtime.cwd = os.getcwd()

    # The folders of the user's and of tunetrail's experiments, by the environment of now.
    searched = iter(config.hydra.searchpath)
    for source in runtime.config_sources:
        if source.provider == _SEARCHED:
            source.path = next(searched).partition("://")[2]
