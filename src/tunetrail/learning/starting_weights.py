"""The weights that a training begins with, and those that it ends with."""

from collections.abc import Mapping
from pathlib import Path

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training.sharding import load_whole
from tunetrail.learning.weights import trained_weights


def starting_weights(module: LightningModule) -> Mapping[str, Tensor] | None:
    """Return a copy of the trained weights of adapters.

    None for a whole model, whose starting weights lie in its folder.
    """
    if module.strict_loading:
        return None
    trained = trained_weights(module).items()
    return {name: weight.detach().clone() for name, weight in trained}


def restore_start(module: TrainedModule, start: Mapping[str, Tensor] | None) -> None:
    """Give a module the weights that its training began with.

    Args:
        module: The module.
        start: What `starting_weights` returned before the training; without it, the whole model
            is read from its folder again.
    """
    if start is not None:
        load_whole(module, start, strict=False)
        return
    with isolate_rng():
        load_whole(module, type(module)(**module.hparams).state_dict())


def load_weights(module: LightningModule, checkpoint: Path) -> None:
    """Load a checkpoint's weights into the module; nothing is unpickled."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    load_whole(module, state, strict=module.strict_loading)
