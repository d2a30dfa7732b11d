"""What a check before the training is, and what checks have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from pytorch_lightning import Trainer
from torch import nn

from tunetrail.learning.preflight.findings import PreflightFinding

Item = TypeVar("Item")

Check = Callable[[Trainer, Any], PreflightFinding]
"""Takes the trainer, which has its module and its batches by then, and the module."""

SAMPLED = 1000
"""Number of rows from which shares are estimated."""


def _no_preview(trainer: Trainer, module: Any) -> str:
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyChecks:
    """The checks that a model family brings to its trainings.

    Attributes:
        rows: Checks of the rows. They run first.
        model: Checks that compute with the model. They run last, when memory is known to suffice.
        preview: Returns some training examples as the model reads them.
    """

    rows: Sequence[Check] = ()
    model: Sequence[Check] = ()
    preview: Callable[[Trainer, Any], str] = _no_preview


NO_FAMILY_CHECKS = FamilyChecks()


def sampled(items: Sequence[Item], count: int = SAMPLED) -> list[Item]:
    """Return at most `count` items, evenly spread."""
    # Evenly spread: rows of one source often stand together.
    # Rounded up, or there would be more than `count` of them.
    step = max(-(-len(items) // count), 1)
    return list(items[::step])


def is_exact(module: nn.Module) -> bool:
    """Tell whether all weights are float32, so that rounding alone changes few digits."""
    return all(weight.dtype == torch.float32 for weight in module.parameters())


def share(numerator: float, denominator: float) -> str:
    """Return a share as a percentage, for messages."""
    return f"{100.0 * numerator / denominator:.3g} %"
