"""A method of augmentation: people ask the same question with and without a polite phrase."""

from dataclasses import dataclass, field

import numpy as np

from tunetrail.data.augmentation.method import AugmentationMethod


@dataclass(kw_only=True)
class PolitenessOptions:
    """Options of the method: `augmentation.extensions.politeness.OPTION`."""

    phrases: list[str] = field(default_factory=lambda: ["please", "thank you"])
    """Phrases, of which one is put after the text."""


def politely(text: str, generator: np.random.Generator, options: PolitenessOptions) -> str | None:
    """Return the text with a phrase after it; None if it has one already."""
    if any(phrase in text.lower() for phrase in options.phrases):
        return None
    return f"{text} {generator.choice(options.phrases)}"


POLITENESS = AugmentationMethod(name="politeness", vary=politely, options_class=PolitenessOptions)
