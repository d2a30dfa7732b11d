"""Quiet: what Lightning and transformers say on every training, and nobody can act on."""

import logging
import warnings

from transformers.utils.logging import disable_progress_bar


def quieten_lightning() -> None:
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
