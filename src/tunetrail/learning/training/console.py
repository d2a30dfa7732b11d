"""What a training shows on the terminal: its progress, and no remarks of libraries."""

import logging
import warnings

from rich.console import Console
from rich.progress import Progress
from transformers.utils.logging import disable_progress_bar


def progress_bar() -> Progress:
    """Return a progress bar on the error stream that disappears when it is finished."""
    return Progress(console=Console(stderr=True), transient=True)


def silence_lightning() -> None:
    """Silence what Lightning says on every fit and nobody can act on."""
    disable_progress_bar()  # type: ignore[no-untyped-call] # transformers' bar for every loading of weights
    for name in ("pytorch_lightning", "lightning.pytorch", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*is_gradient_checkpointing.*",
    ):
        warnings.filterwarnings("ignore", message=message)
