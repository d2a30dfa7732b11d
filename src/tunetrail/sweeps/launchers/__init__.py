"""Launchers: where the jobs of a sweep run.

`hydra/launcher=basic` runs them in the process of the sweep, one after another. With every other
one, each job is a process of its own.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from tunetrail.errors import ConfigError
from tunetrail.sweeps.launchers.base import JobLauncher
from tunetrail.sweeps.launchers.joblib_launcher import JoblibLauncher
from tunetrail.sweeps.launchers.processes import ProcessesLauncher
from tunetrail.sweeps.launchers.ray_launcher import RayLauncher
from tunetrail.sweeps.launchers.submitit_launcher import (
    SubmititLocalLauncher,
    SubmititSlurmLauncher,
)

_BASIC = "basic"
_CLASSES: dict[str, type[JobLauncher]] = {
    "processes": ProcessesLauncher,
    "joblib": JoblibLauncher,
    "submitit_local": SubmititLocalLauncher,
    "submitit_slurm": SubmititSlurmLauncher,
    "ray": RayLauncher,
}
LAUNCHERS = (_BASIC, *_CLASSES)
# The package that declares the settings of a launcher, and the extra that installs it.
_PLUGINS = {
    "joblib": ("hydra_joblib_launcher", "joblib"),
    "submitit_local": ("hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_submitit_launcher", "slurm"),
}


@dataclass(kw_only=True)
class ProcessesSettings:
    """Settings of `hydra/launcher=processes`."""

    _target_: str = ""

    slots: int | None = None
    """Jobs that run at the same time, among which CPU threads and GPUs are divided; null: one per
    GPU, or two without a GPU."""


@dataclass(kw_only=True)
class RaySettings:
    """Settings of `hydra/launcher=ray`."""

    _target_: str = ""

    cpus: int = 1
    """CPU cores that Ray reserves for a job."""

    gpus: float | None = None
    """GPUs that Ray reserves for a job; null: one if the cluster has any."""


def register_launchers() -> None:
    """Tell Hydra the launchers and their settings."""
    plugins = Plugins.instance()
    for name, launcher_class in _CLASSES.items():
        # Hydra takes plugins from the package `hydra_plugins` only; it looks the class up by name.
        plugins.register(launcher_class)
        plugins.class_name_to_class[_target(name)] = launcher_class

    store = ConfigStore.instance()
    settings = {"processes": ProcessesSettings, "ray": RaySettings, **_published_settings()}
    for name in _CLASSES:
        target = {"_target_": _target(name)}
        node = settings[name](**target) if name in settings else target
        store.store(group="hydra/launcher", name=name, node=node, provider="tunetrail")


def launcher_of(
    hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
) -> Launcher:
    """Return the configured launcher, ready for `launch`.

    Raises:
        ConfigError: It is unknown, not installed, or a setting of it is out of range.
    """
    name = str(config.hydra.runtime.choices["hydra/launcher"])
    if name not in LAUNCHERS:
        raise ConfigError(f"hydra/launcher must be one of {', '.join(LAUNCHERS)}, got {name!r}.")
    if name in _PLUGINS:
        package, extra = _PLUGINS[name]
        if not _is_installed(package):
            raise ConfigError(
                f"hydra/launcher must be basic or processes unless the package {package} is "
                f"installed, got {name!r}. pip install 'tunetrail[{extra}]'"
            )

    return Plugins.instance().instantiate_launcher(
        hydra_context=hydra_context, task_function=task_function, config=config
    )


def slots_of(launcher: Launcher) -> int:
    """Return how many jobs a launcher runs at the same time."""
    return launcher.slots if isinstance(launcher, JobLauncher) else 1


def _target(name: str) -> str:
    return f"hydra_plugins.tunetrail.{_CLASSES[name].__name__}"


def _is_installed(package: str) -> bool:
    return find_spec("hydra_plugins") is not None and (
        find_spec(f"hydra_plugins.{package}") is not None
    )


def _published_settings() -> dict[str, Any]:
    """Return the classes of the settings that the installed plugins declare, by launcher."""
    settings: dict[str, Any] = {}
    if _is_installed("hydra_joblib_launcher"):
        from hydra_plugins.hydra_joblib_launcher.config import JobLibLauncherConf

        settings["joblib"] = JobLibLauncherConf
    if _is_installed("hydra_submitit_launcher"):
        from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf

        settings |= {"submitit_local": LocalQueueConf, "submitit_slurm": SlurmQueueConf}
    return settings
