"""A module in evaluation mode for a while. Knows nothing of models."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode; afterwards each of its parts is in the mode that it was in.

    `module.train(before)` would not do: a model that was just loaded is in training mode, and its parts are not.
    """
    modes = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        yield
    finally:
        for part, training in modes:
            part.training = training
