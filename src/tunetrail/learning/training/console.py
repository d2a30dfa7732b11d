"""What a training shows on the terminal: its progress, and no remarks of libraries."""

import logging
import warnings

from rich.progress import Progress
from transformers.utils.logging import disable_progress_bar

from tunetrail.reporting.progress import progress_console

_LOGGERS = ("pytorch_lightning", "lightning.pytorch", "pytorch_lightning.utilities.rank_zero")
_IGNORED_WARNINGS = (
    r".*does not have many workers.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*is_gradient_checkpointing.*",
    # The ranks are started by us, on SLURM as well, and never by srun itself.
    r".*`srun` command is available.*",
    r".*smaller than the logging interval.*",
)


def progress_bar() -> Progress:
    """Return a progress bar on the error stream that disappears when it is finished."""
    return Progress(console=progress_console(), transient=True)


def silence_lightning() -> None:
    """Silence what Lightning and transformers say in every training and nobody can act on."""
    # transformers shows a bar whenever it loads weights.
    disable_progress_bar()  # type: ignore[no-untyped-call]

    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in _IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
