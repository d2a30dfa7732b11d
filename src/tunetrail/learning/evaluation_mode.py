"""Put a module into evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and every submodule back into its own mode afterwards.

    `module.train(before)` would not do: a freshly loaded model is in training mode while its
    submodules are in evaluation mode.
    """
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for submodule, training in modes:
            submodule.training = training


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode; restore its modes and the random generators afterwards."""
    # Only now: whoever just applies a model does without Lightning, whose import takes seconds.
    from pytorch_lightning.utilities.seed import isolate_rng

    with isolate_rng(), evaluating(module):
        yield
