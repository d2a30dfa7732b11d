"""Run a task on the request that the arguments compose, once or for each job of a sweep.

This is the only module that starts Hydra's runs.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tunetrail.cli.composition import (
    checked_request,
    compose_with_hydra,
    prepare_hydra,
    split_arguments,
)
from tunetrail.cli.hydra_errors import readable_errors
from tunetrail.cli.hydra_settings import check_hydra_settings
from tunetrail.cli.output import prints_json, show
from tunetrail.cli.override_keys import check_keys, with_signs
from tunetrail.cli.spellings import check_hydra_options
from tunetrail.cli.terminal import say_loading
from tunetrail.cli.unused_settings import warn_of_unused
from tunetrail.config import MISSING, TrainRequest
from tunetrail.errors import UserError, not_writable
from tunetrail.paths import conf_dir
from tunetrail.sweeps import FinishSweep, SweepHooks, SweepNotStarted, check_folder
from tunetrail.verbosity import quieten

logger = logging.getLogger(__name__)

NO_HYDRA_FILES = (
    "hydra.run.dir=.",
    "hydra.job_logging.root.handlers=[console]",
    "~hydra.job_logging.handlers.file",
)
"""Overrides that keep Hydra from making a folder and a log before the request is checked."""

_SWEEP_OPTIONS = {"-m", "--multirun"}

Task = Callable[[TrainRequest, Sequence[str]], Mapping[str, Any]]
"""Takes the checked request and the overrides that led to it."""


def run_composed(
    arguments: Sequence[str],
    task: Task,
    *,
    finish_sweep: FinishSweep | None = None,
    job_name: str = "train",
    defaults: Sequence[str] = (),
) -> None:
    """Compose conf/train.yaml with the arguments and run the task, once for each job of a sweep.

    Args:
        arguments: Overrides and Hydra's own options, in any order; `-m` makes a sweep of them.
        task: What is run.
        finish_sweep: Decides about a sweep whose jobs have ended; None if the task can't be swept.
        job_name: Names the log file.
        defaults: Overrides that apply unless the arguments say otherwise.

    Raises:
        ConfigError: The arguments or an experiment file can't be composed.
        SweepError: Jobs of a sweep have failed.
    """
    text_keys = prepare_hydra()
    from tunetrail.cli.text_values import keep_text
    from tunetrail.sweeps.sweeper import TunetrailSweeper

    overrides, options = split_arguments(arguments)
    check_hydra_options(options)
    check_keys(overrides)
    overrides = [keep_text(override, text_keys) for override in with_signs(overrides)]
    all_overrides = [f"hydra.job.name={job_name}", *defaults, *overrides]

    composed = _ComposedTask(task, overrides)
    TunetrailSweeper.hooks = SweepHooks(composed.check_job, finish_sweep, [*overrides, *options])
    with composed.readable_errors():
        if _prints_configuration(options):
            configuration = _checked_configuration(all_overrides)
            if prints_json():
                _check_printable(options)
                show(lambda: configuration)
                return
        composed.start(all_overrides, options)
        composed.raise_failure()


class _ComposedTask:
    """A task as Hydra calls it, and what went wrong in it.

    Args:
        task: What is run for each job.
        overrides: The overrides of the command.
    """

    def __init__(self, task: Task, overrides: Sequence[str]) -> None:
        self._task = task
        self._overrides = overrides
        self._arguments = list(sys.argv)
        self._has_started = self._is_sweep = False
        self._failure: Exception | None = None

    def start(self, overrides: Sequence[str], options: Sequence[str]) -> None:
        """Let Hydra compose the configuration, and run the task, as its options say."""
        import hydra

        from tunetrail.cli.remembered_configs import initialized_hydra

        has_other_options = bool(set(options) - _SWEEP_OPTIONS)
        if has_other_options or any("hydra.mode=" in override for override in overrides):
            start = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")
            with self._hydra_arguments([*overrides, *options]):
                start(self.run_job)()
            return

        # Hydra's main function would compose everything once more, only to find the mode.
        mode = "MULTIRUN" if options else "RUN"
        with initialized_hydra() as started:
            run = started.multirun if options else started.run
            run("train", self.run_job, [*overrides, f"hydra.mode={mode}"])

    def check_job(self, config: Any) -> TrainRequest:
        """Return the request of a job of a sweep, before any of them starts."""
        quieten()
        request = checked_request(config)
        # It is called for each job, all of which have the same model type.
        if not self._is_sweep:
            say_loading("train")
            warn_of_unused(request, self._overrides)
        self._is_sweep = True
        return request

    def run_job(self, config: Any) -> Mapping[str, Any]:
        """Run the task; Hydra's main function calls this, and the sweeper for each job."""
        from hydra.core.hydra_config import HydraConfig

        self._has_started = True
        sys.argv = self._arguments  # Lightning's ddp starts its processes with them
        quieten()

        try:
            return self._run_job(config, HydraConfig.get())
        except Exception as error:
            if self._is_sweep:
                logger.error("job %s failed: %s", config.sweep.job, error)
                raise  # the sweep notes it, and goes on with the other jobs
            # Hydra would print a traceback of it.
            self._failure = error
            return {}

    def _run_job(self, config: Any, hydra: Any) -> Mapping[str, Any]:
        from tunetrail.cli.text_values import without_quotes

        overrides = list(map(without_quotes, hydra.overrides.task))
        check_folder(hydra.job.chdir)
        request = checked_request(config)
        if not self._is_sweep:
            warn_of_unused(request, overrides)
        return self._task(request, overrides)

    def raise_failure(self) -> None:
        """Raise the error that the task ended with, if it did."""
        if self._failure is not None:
            raise self._failure

    @contextlib.contextmanager
    def _hydra_arguments(self, arguments: Sequence[str]) -> Iterator[None]:
        """Let Hydra find these arguments in `sys.argv`."""
        sys.argv = [self._arguments[0], *arguments]
        try:
            yield
        finally:
            sys.argv = self._arguments

    @contextlib.contextmanager
    def readable_errors(self) -> Iterator[None]:
        """Raise our own errors for Hydra's, and for folders that it can't make."""
        try:
            with readable_errors():
                yield
        except SweepNotStarted as refusal:
            raise refusal.error from refusal
        except OSError as error:
            # Once the task has started, an OSError is about its files, not about Hydra's folders.
            if self._has_started or not error.filename:
                raise
            raise not_writable(self._folder_key(), error.filename, error) from error

    def _folder_key(self) -> str:
        """Return the key of the folder in which Hydra makes the folders of its logs."""
        hydra_folders = ("hydra.run.dir=", "hydra.sweep.dir=")
        moved = [override for override in self._overrides if override.startswith(hydra_folders)]
        return moved[0].partition("=")[0] if moved else "output_dir"


def _prints_configuration(options: Sequence[str]) -> bool:
    """Tell whether Hydra only prints a configuration, and finds it as we do."""
    names = {option.partition("=")[0] for option in options}
    elsewhere = {"--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn"}
    # Hydra refuses to print the configurations of a sweep.
    return bool(names & {"--cfg", "-c"}) and not names & {"-m", "--multirun", *elsewhere}


def _check_printable(options: Sequence[str]) -> None:
    """Raise `UserError` if Hydra's own part of the configuration is to be printed as JSON."""
    for name in ("hydra", "all"):
        if {name, f"--cfg={name}", f"-c={name}"} & set(options):
            raise UserError(f"--cfg must be job with --json, got {name!r}. Leave --json out.")


def _checked_configuration(overrides: Sequence[str]) -> Any:
    """Return a configuration that was checked as a run's is, except that it may lack a session."""
    from omegaconf import OmegaConf, open_dict

    config, hydra = compose_with_hydra(overrides)
    check_hydra_settings(hydra)
    if OmegaConf.is_missing(config, "session_id"):
        with open_dict(config):
            config.session_id = "none"
            checked_request(config)
            config.session_id = MISSING
    else:
        checked_request(config)
    return OmegaConf.to_container(config)
