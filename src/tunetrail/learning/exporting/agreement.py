"""Agreement of an exported model with the original: on the same texts, the same outputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tunetrail.errors import DeploymentError

NDArray = np.ndarray[Any, np.dtype[Any]]

PROBES = (
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "Où est ma facture ? Sie liegt seit dem 3. Mai 2026 im Postfach.",
    "def mean(values):\n    return sum(values) / len(values)\n",
    "A text that is a good deal longer than the others. " * 12,
)
"""Texts on which models are compared: of several lengths, scripts and languages."""

LEAST_COSINE = 0.9999
"""Least cosine between an exported model's vector and the original's."""
MOST_DIFFERENCE = 1e-2
"""Largest difference of a logit, in nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How well an exported model agrees with the original.

    Attributes:
        measure: What was measured: `least cosine` or `largest difference of a logit`.
        value: Its value on `PROBES`.
    """

    measure: str
    value: float

    def __str__(self) -> str:
        """Return `least cosine 0.9999998`."""
        # A cosine's digits are those after many nines.
        digits = f"{self.value:.7f}" if self.value > 0.9 else f"{self.value:.2g}"
        return f"{self.measure} {digits}"


def compare_vectors(exported: NDArray, original: NDArray, kind: str) -> Agreement:
    """Return the least cosine between vectors [texts, dimensions].

    Raises:
        DeploymentError: It is below `LEAST_COSINE`, or the vectors differ in form.
    """
    if exported.shape != original.shape:
        raise DeploymentError(
            f"the {kind} model must give vectors of the form {original.shape}, got "
            f"{exported.shape}. Nothing was exported."
        )

    products = (exported.astype(np.float64) * original).sum(axis=1)
    lengths = np.linalg.norm(exported.astype(np.float64), axis=1) * np.linalg.norm(original, axis=1)
    least = float((products / np.maximum(lengths, np.finfo(np.float64).tiny)).min())
    # Written so that NaN fails too.
    if not least >= LEAST_COSINE:
        raise DeploymentError(
            f"the {kind} model must give the original's vectors with cosines above {LEAST_COSINE}, "
            f"got {least:.6f}. Nothing was exported."
        )
    return Agreement(measure="least cosine", value=least)


def compare_logits(
    exported: NDArray, original: NDArray, kind: str, most: float = MOST_DIFFERENCE
) -> Agreement:
    """Return the largest difference between logits [texts, vocabulary].

    Raises:
        DeploymentError: It is above `most`.
    """
    difference = float(np.abs(exported - original).max())
    if not difference <= most:
        raise DeploymentError(
            f"the {kind} model must give the original's logits within {most}, got a difference of "
            f"{difference:.3g}. Nothing was exported."
        )
    return Agreement(measure="largest difference of a logit", value=difference)
