"""Lightning's loggers that a configuration names: they get the metrics that MLflow gets."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger

from tunetrail import extensions
from tunetrail.config.checks import Rule
from tunetrail.errors import TrainingError, one_line
from tunetrail.learning.named_classes.allowed_classes import AllowedClass, AllowList, Named
from tunetrail.learning.training.callbacks import MetricsSink

_TEXT = Rule("a text", lambda value: isinstance(value, str))
_TEXTS = Rule(
    "a list of texts",
    lambda value: isinstance(value, list) and all(map(_TEXT.allows, value)),
)

# Folder and version can't be set: files stay in the run's folder, and a resumed training must not
# write over the files of the attempt before.
LOGGERS = AllowList(
    section="trainer.logger",
    base=Logger,
    module="loggers",
    classes={
        "CSVLogger": AllowedClass(arguments={"prefix": None}, fixed={"name": ""}),
        "TensorBoardLogger": AllowedClass(
            arguments={"prefix": None, "default_hp_metric": None},
            fixed={"name": ""},
            packages=("tensorboard", "tensorboardX"),
        ),
        "WandbLogger": AllowedClass(
            arguments={
                **dict.fromkeys(("name", "project", "offline", "prefix", "id")),
                **dict.fromkeys(("entity", "group", "job_type", "notes"), _TEXT),
                "tags": _TEXTS,
            },
            packages=("wandb",),
        ),
    },
    instead={"MLFlowLogger": "tracking.uri"},
    point=extensions.LOGGERS,
    provided=("save_dir",),
)


def is_built_in_logger(name: str) -> bool:
    """Tell whether a logger is one of Lightning's own that are allowed, or an option of conf/."""
    return LOGGERS.is_built_in(name)


def check_loggers(named: Named) -> None:
    """Raise `ConfigError` for a logger that isn't allowed or for a wrong argument of one."""
    # Some loggers connect to their server when they are built: only the training does so.
    for name, values in named.items():
        LOGGERS.checked(name, values)


@contextmanager
def logging_to(
    named: Named, folder: Path, sink: MetricsSink, parameters: Mapping[str, Any]
) -> Iterator[MetricsSink]:
    """Open the loggers of the section `trainer.logger`, and close them afterwards.

    Args:
        named: The section.
        folder: Folder of their files; each logger writes to a folder of its name.
        sink: Receives the metrics after the loggers.
        parameters: The run's configuration by dotted keys, without secrets.

    Yields:
        What takes the metrics of the training.

    Raises:
        ConfigError: A logger isn't allowed, or doesn't accept its arguments.
        TrainingError: A logger can't be opened, for example because its server doesn't answer.
    """
    loggers: list[Logger] = []
    for name, values in named.items():
        loggers.append(LOGGERS.build(name, values, save_dir=str(folder / name)))
        _open(loggers[-1], name, folder / name, parameters)

    def report(metrics: Mapping[str, float], step: int) -> None:
        for named_logger in loggers:
            named_logger.log_metrics(dict(metrics), step)
            # Otherwise a killed training would lose what is buffered.
            named_logger.save()
        # Last: it may end the training.
        sink(metrics, step)

    status = "failed"
    try:
        yield report
        status = "success"
    finally:
        _close(loggers, status)


def _open(opened: Logger, name: str, folder: Path, parameters: Mapping[str, Any]) -> None:
    """Open a logger with the run's configuration: most do so when they get something to log."""
    # Weights & Biases, for one, doesn't make the folder.
    folder.mkdir(parents=True, exist_ok=True)
    try:
        opened.log_hyperparams(dict(parameters))
    # Each package has errors of its own, for a missing login or a server that is down.
    except Exception as error:
        raise TrainingError(
            f"trainer.logger.{name} can't be opened: {one_line(error)}. Log in or start its "
            "server, and continue with tunetrail resume; or train without it."
        ) from error


def _close(loggers: Sequence[Logger], status: str) -> None:
    for named_logger in loggers:
        named_logger.finalize(status)
        # Lightning leaves a run of Weights & Biases open, and the next training would go on in it.
        finish = getattr(getattr(named_logger, "experiment", None), "finish", None)
        if callable(finish):
            finish()
