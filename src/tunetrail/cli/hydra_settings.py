"""Check the settings of Hydra itself in a configuration that is only printed, as a run does."""

from typing import Any

from tunetrail.sweeps import check_folder


def check_hydra_settings(hydra: Any) -> None:
    """Raise the error with which a run would refuse the settings of Hydra.

    Like a run, it sets up the logging of this process; no file is made.

    Args:
        hydra: The part `hydra` of a composed configuration.

    Raises:
        ConfigError: A job would leave the folder in which it was started.
        ValueError: Python's logging doesn't know a level or a handler; see `readable_errors`.
    """
    from hydra.core.utils import configure_log
    from omegaconf import OmegaConf

    check_folder(hydra.job.chdir)
    for name in ("hydra_logging", "job_logging"):
        if hydra[name] is not None:
            configure_log(OmegaConf.create(_without_files(hydra[name])), hydra.verbose)


def _without_files(logging: Any) -> dict[str, Any]:
    """Return the configuration of a log without the handlers that write to files."""
    from omegaconf import OmegaConf

    # The folder of the run is not known before there is a run.
    plain: Any = OmegaConf.to_container(logging)
    for name, handler in (plain.get("handlers") or {}).items():
        if "filename" in handler:
            plain["handlers"][name] = {"class": "logging.NullHandler"}
    return dict(plain)
