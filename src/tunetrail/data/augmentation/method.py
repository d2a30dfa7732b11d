"""What a method of augmentation is: one record each, ours and those that packages bring."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunetrail.config import AUGMENTATION_METHODS

Vary = Callable[[str, np.random.Generator, Any], str | None]
"""Takes a text, a seeded generator and the options of the method; returns the varied text, or None
if the text has nothing that it could vary."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationMethod:
    """A way to make a row from another one, by varying the text that its model reads.

    A row's target stays: answers, labels and scores are never varied. The varied text is added as
    a row of its own if it isn't empty and differs from its source and from what was added before.

    Attributes:
        name: Its name in `augmentation.methods`.
        vary: Varies a text. The generator is seeded by the method and the row, so that a row
            becomes the same in every run.
        options_class: The dataclass of its options; None if it has none. Our own methods get the
            section `augmentation`.
    """

    name: str
    vary: Vary
    options_class: type[Any] | None = None


def is_built_in(name: str) -> bool:
    """Tell whether a method is one of our own."""
    return name in AUGMENTATION_METHODS
