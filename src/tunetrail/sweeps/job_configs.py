"""Compose the jobs of a sweep: what their files give is composed once, and then values are set.

It uses Hydra's internals, written for Hydra 1.3. tests/unit/sweeps/test_job_configs.py compares all
kinds of overrides with Hydra's own compositions.
"""

import copy
from collections.abc import Callable, Sequence
from itertools import product

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.default_element import ResultDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig

_SEARCH_PATH = "hydra.searchpath"
# Compositions in memory; each is a megabyte or two.
_MOST_TEMPLATES = 32


class JobConfigLoader(ConfigLoaderImpl):
    """Hydra's loader of configurations, with a memory for the jobs of a sweep.

    Hydra composes a job in three steps: the groups give a list of files, the files are merged, and
    the values of single keys are set. Here, a file is read once, and jobs that differ in values
    only are copies of one composition, in which Hydra's own code sets the values. So a job that
    chooses another file of a group is composed as it should be, and files that are edited meanwhile
    change no later job.

    Args:
        loader: The loader that Hydra has made for the command.
        command: What the command was composed to.
    """

    def __init__(self, loader: ConfigLoader, command: DictConfig) -> None:
        super().__init__(loader.get_search_path())
        self._command = command
        self._repositories: dict[tuple[str | None, ...], CachingConfigRepository] = {}
        self._overrides: dict[str, Override] = {}
        self._templates: dict[tuple[str, ...], DictConfig] = {}

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        """Return the configuration of a job, which the caller may change.

        Args:
            master_config: What the command was composed to.
            sweep_overrides: All overrides of the job.
        """
        parsed, repository = self._parse_overrides_and_create_caching_repo(
            master_config.hydra.job.config_name,
            [*master_config.hydra.overrides.hydra, *sweep_overrides],
        )
        of_job = parsed[len(parsed) - len(sweep_overrides) :]
        values, others = split_values(of_job, repository.group_exists)
        if any(_overlap(value, other) for value, other in product(values, others)):
            # Their order counts, which a template wouldn't keep.
            return super().load_sweep_config(master_config, sweep_overrides)

        config = copy.deepcopy(self._template(master_config, others))
        self._apply_overrides_to_config(values, config)
        note_overrides(config, of_job)
        return config

    def get_group_options(
        self,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        """Return the options of a group, by default wherever the command finds files.

        Hydra's own loader forgets the folders that a configuration adds, such as that of the
        experiments, when it looks up what `glob` matches.
        """
        hydra = self._command.hydra
        config_name = config_name or hydra.job.config_name
        overrides = list(hydra.overrides.hydra) if overrides is None else overrides
        return super().get_group_options(group_name, results_filter, config_name, overrides)

    def _template(self, master_config: DictConfig, overrides: Sequence[Override]) -> DictConfig:
        """Return the composition of the overrides that aren't single values."""
        key = tuple(str(override.input_line) for override in overrides)
        template = self._templates.pop(key, None)
        if template is None:
            template = super().load_sweep_config(master_config, list(key))

        # Last in the order, from which the least recently used one goes.
        self._templates[key] = template
        if len(self._templates) > _MOST_TEMPLATES:
            del self._templates[next(iter(self._templates))]
        return template

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        """Return the parsed overrides, and the files that are read already."""
        # The only overrides that say where files are.
        paths = [override for override in overrides if _SEARCH_PATH in override]
        key = (config_name, *paths)
        if key in self._repositories:
            return self._parse(overrides), self._repositories[key]

        parsed, self._repositories[key] = super()._parse_overrides_and_create_caching_repo(
            config_name, overrides
        )
        return parsed, self._repositories[key]

    def _compose_config_from_defaults_list(
        self, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        """Return the merged files of a list, which the caller may change."""
        # Merging changes what was read, so the files are read for it alone.
        assert isinstance(repo, CachingConfigRepository)
        own_files = CachingConfigRepository(repo.delegate)
        return super()._compose_config_from_defaults_list(defaults, own_files)

    def _parse(self, overrides: list[str]) -> list[Override]:
        """Return the parsed overrides, most of which all jobs share."""
        new = [override for override in overrides if override not in self._overrides]
        self._overrides.update(zip(new, OverridesParser.create().parse_overrides(new), strict=True))
        return [self._overrides[override] for override in overrides]


def split_values(
    overrides: Sequence[Override], is_group: Callable[[str], bool]
) -> tuple[list[Override], list[Override]]:
    """Return the overrides that only set a key which is there, and the others.

    Args:
        overrides: The overrides.
        is_group: Tells whether a key is a group of files.
    """
    values: list[Override] = []
    others: list[Override] = []
    for override in overrides:
        is_plain = override.type == OverrideType.CHANGE and not override.is_sweep_override()
        is_ours = not override.is_hydra_override() and override.package is None
        is_value = is_plain and is_ours and not is_group(override.key_or_group)
        (values if is_value else others).append(override)
    return values, others


def _overlap(first: Override, second: Override) -> bool:
    """Tell whether one key is the other, or is below it."""
    keys = first.key_or_group, second.key_or_group
    shorter, longer = sorted((f"{key}." for key in keys), key=len)
    return longer.startswith(shorter)


def note_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Write into a configuration what overrides led to it, as Hydra's loader does."""
    job = config.hydra.job
    ours = [override for override in overrides if not override.is_hydra_override()]
    config.hydra.overrides.task = [override.input_line for override in ours]
    job.override_dirname = get_overrides_dirname(overrides=ours, **job.config.override_dirname)
