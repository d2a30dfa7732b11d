"""Hydra's sweeper `tunetrail`: it checks all jobs of a sweep before the first one is trained.

It is registered for single trainings as well, so it imports late what loads torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from tunetrail.config import (
    MODEL_SECTIONS,
    SearchConfig,
    TrainRequest,
    checked_session_ids,
)
from tunetrail.config.checks import check
from tunetrail.errors import ConfigError, TunetrailError
from tunetrail.sweeps import SweepHooks, check_folder
from tunetrail.sweeps.callbacks import SWEEPER
from tunetrail.sweeps.job_configs import JobConfigLoader

if TYPE_CHECKING:
    from tunetrail.stores.database.manager import DatabaseManager
    from tunetrail.sweeps.driver import SweepDriver
    from tunetrail.sweeps.space import SearchSpace

_TARGET = "hydra_plugins.tunetrail.TunetrailSweeper"


@dataclass(kw_only=True)
class SweeperConfig(SearchConfig):
    """The keys of `hydra.sweeper`."""

    _target_: str = _TARGET
    """The class that Hydra makes, which can't be another one."""

    params: dict[str, str] | None = None
    """Keys that vary, with their values as they would be typed; for files. `training.` stands for
    `embedding.training.` or `llm.training.`, by the model type."""

    resume: str | None = None
    """The sweep to continue. `tunetrail resume` sets it."""


class TunetrailSweeper(Sweeper):
    """Trains the jobs of a sweep up to their validation score, and lets only the best go on.

    Args:
        params: Keys that vary, with their values as they would be typed.
        resume: The sweep to continue, None for a new one.
        search: The fields of `SearchConfig`.
    """

    hooks: ClassVar[SweepHooks]
    """Set by the command line before Hydra makes the sweeper."""
    config: DictConfig
    context: HydraContext
    task_function: TaskFunction

    def __init__(
        self, params: dict[str, str] | None = None, resume: str | None = None, **search: Any
    ) -> None:
        self.params = dict(params or {})
        self.resumed_sweep = resume
        # Checked later: Hydra would wrap the error, and name the class instead of the key.
        self.search = search

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Remember what Hydra gives to every sweeper."""
        # Each job is composed twice: to be checked, and to be trained.
        loader = JobConfigLoader(hydra_context.config_loader, config)
        self.context = replace(hydra_context, config_loader=loader)
        self.task_function, self.config = task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Train all jobs and decide about the best one.

        Args:
            arguments: The overrides, some of which stand for several values.

        Raises:
            ConfigError: A job can't be trained as it is configured; none has started.
            SweepError: Jobs have failed. The others were trained, and the best one went on.
        """
        from tunetrail.stores.database.manager import DatabaseManager
        from tunetrail.sweeps.driver import SweepDriver
        from tunetrail.sweeps.launchers import launcher_of
        from tunetrail.sweeps.swept_overrides import split_overrides

        finish = self.hooks.finish
        if finish is None:
            raise ConfigError("hydra.mode must be RUN here, got MULTIRUN. Only train can sweep.")
        # Here, where its error is known to be of a folder that the user has named.
        Path(self.config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)

        parser = OverridesParser.create(config_loader=self.context.config_loader)
        # What is typed on the command line counts more than a file.
        in_files = [f"{self._whole_key(key)}={values}" for key, values in self.params.items()]
        space, shared = split_overrides(parser.parse_overrides([*in_files, *arguments]))
        launcher = launcher_of(self.context, self.task_function, self.config)

        first = self._request([*shared, *space.overrides(next(space.probes()))])
        with DatabaseManager(first.database.url) as manager:
            if self.resumed_sweep is None:
                driver = self._start(manager, first, space, shared)
            else:
                driver = SweepDriver.reopen(manager, first, self.resumed_sweep)
            driver.run(launcher, shared, finish)

    def _start(
        self,
        manager: "DatabaseManager",
        first: TrainRequest,
        space: "SearchSpace",
        shared: Sequence[str],
    ) -> "SweepDriver":
        """Check all jobs, and make the sweep's run and study."""
        from tunetrail.collecting import collect
        from tunetrail.pipeline.requests import summaries_of
        from tunetrail.sweeps.driver import SweepDriver
        from tunetrail.sweeps.job_checks import check_job, check_same
        from tunetrail.sweeps.objectives import check_objective
        from tunetrail.sweeps.samplers import checked_search

        session_ids = checked_session_ids(first.session_id)
        # Once for all jobs: they learn from the samples that are there now.
        for session_id in session_ids:
            collect(manager, session_id)
        objectives = check_objective(first, manager, first.session_id, first.model_type)
        # Of the first job for all: `check_same` makes sure that they have the same sessions.
        summaries = summaries_of(manager, session_ids)
        search = checked_search(SearchConfig(**self.search), space, len(objectives))

        values_of_jobs = space.grid() if search.sampler == "grid" else space.probes()
        for number, values in enumerate(values_of_jobs):
            overrides = space.overrides(values)
            try:
                request = self._request([*shared, *overrides])
                check_same(first, request)
                check_job(request, summaries)
            except TunetrailError as error:
                error.args = (f"{error} (job {number} of the sweep: {', '.join(overrides)})",)
                raise

        folder = f"hydra.sweep.dir={_quoted(self.config.hydra.sweep.dir)}"
        return SweepDriver.start(
            manager,
            first,
            objectives,
            search=search,
            space=space,
            arguments=[*self.hooks.arguments, folder],
        )

    def _whole_key(self, key: str) -> str:
        """Return a key of a file, in which `training.` is that of the model type."""
        if not key.startswith("training."):
            return key
        model_type = str(self.config.model_type)
        check(
            model_type in MODEL_SECTIONS,
            "model_type",
            f"one of {', '.join(MODEL_SECTIONS)} in a sweep over {key}",
            model_type,
        )
        return f"{model_type}.{key}"

    def _request(self, overrides: Sequence[str]) -> TrainRequest:
        config = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        check_folder(config.hydra.job.chdir)
        with read_write(config), open_dict(config):
            del config["hydra"]
        return self.hooks.check(config)


def register_sweeper() -> None:
    """Tell Hydra the sweeper and its settings."""
    plugins = Plugins.instance()
    plugins.register(TunetrailSweeper)
    # Hydra takes plugins from the package `hydra_plugins` only; it looks the class up by name.
    plugins.class_name_to_class[_TARGET] = TunetrailSweeper
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name=SWEEPER, node=SweeperConfig, provider="tunetrail")


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()
