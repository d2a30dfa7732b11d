"""Compose the jobs of a sweep: Hydra reads each file once, and merges each choice of files once.

It uses Hydra's internals, written for Hydra 1.3: what its loader does is in three methods, of which
two are made to remember. tests/unit/sweeps/test_job_configs.py compares all kinds of overrides with
Hydra's own compositions.
"""

import copy
from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

_SEARCH_PATH = "hydra.searchpath"
_MOST_MERGED = 32
"""Merged configurations in memory; each is a megabyte or two."""


class JobConfigLoader(ConfigLoaderImpl):
    """Hydra's loader of configurations, with a memory for the jobs of a sweep.

    Hydra composes a job in three steps: the groups give a list of files, the files are merged, and
    the values of single keys are set. Here, a file is read once, and a list that was merged before
    is copied; the values are set by Hydra's own code. So a job that chooses another file of a group
    is composed as it should be, and files that are edited meanwhile change no later job.

    Args:
        loader: The loader that Hydra has made for the command.
    """

    def __init__(self, loader: ConfigLoader) -> None:
        super().__init__(loader.get_search_path())
        self._repositories: dict[tuple[str | None, ...], CachingConfigRepository] = {}
        self._merged: dict[tuple[str, ...], DictConfig] = {}

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        """Return the parsed overrides, and the files that are read already."""
        # The only overrides that say where files are.
        paths = [override for override in overrides if _SEARCH_PATH in override]
        key = (config_name, *paths)
        if key in self._repositories:
            return OverridesParser.create().parse_overrides(overrides), self._repositories[key]

        parsed, self._repositories[key] = super()._parse_overrides_and_create_caching_repo(
            config_name, overrides
        )
        return parsed, self._repositories[key]

    def _compose_config_from_defaults_list(
        self, defaults: Sequence[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        """Return the merged files of a list, which the caller may change."""
        key = tuple(map(repr, defaults))
        merged = self._merged.pop(key, None)
        if merged is None:
            # Merging changes what was read, so the files are read for it alone.
            assert isinstance(repo, CachingConfigRepository)
            own_files = CachingConfigRepository(repo.delegate)
            merged = super()._compose_config_from_defaults_list(list(defaults), own_files)

        # Last in the order, from which the least recently used one goes.
        self._merged[key] = merged
        if len(self._merged) > _MOST_MERGED:
            del self._merged[next(iter(self._merged))]
        return copy.deepcopy(merged)
