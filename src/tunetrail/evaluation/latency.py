"""Latency: how long two models take for one text, measured next to each other."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom

from tunetrail.plain_values import plain_values
from tunetrail.reporting.readable import shown_interval

CONFIDENCE = 0.95
"""Coverage of the interval of the median."""
REQUESTS = 100
"""Texts that each model is asked, one at a time."""
_WARM_UP = 3
_MILLISECONDS = 1000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """How long a model takes for one text.

    Attributes:
        median: The median in milliseconds.
        lower: Lower bound of its interval.
        upper: Upper bound of its interval.
        requests: Number of texts that it was asked.
    """

    median: float
    lower: float
    upper: float
    requests: int

    @property
    def in_words(self) -> str:
        """Return the median with its interval."""
        return f"{self.median:.3g} ms ({shown_interval(self.lower, self.upper, '.3g')})"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Latency":
        """Return the latency that `to_dict` gave."""
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return plain_values(self)


def measure_latencies(
    computations: Sequence[Callable[[str], Any]],
    texts: Sequence[str],
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Latency]:
    """Return how long each of some computations takes for one text, in the same minutes.

    They take turns with each text, and who begins alternates: what else the machine does meanwhile
    falls on all of them. The first texts aren't counted, as memory is still being prepared.

    Args:
        computations: Each takes a text and returns when its result is there.
        texts: The texts, used again until there are enough.
        clock: Returns a time in seconds.

    Raises:
        ValueError: There are no texts.
    """
    if not texts:
        raise ValueError("texts must be at least one, got none.")
    seconds: list[list[float]] = [[] for _ in computations]
    order = list(range(len(computations)))
    for text in itertools.islice(itertools.cycle(texts), _WARM_UP + REQUESTS):
        for position in order:
            started = clock()
            computations[position](text)
            seconds[position].append(clock() - started)
        order.reverse()
    return [_latency(times[_WARM_UP:]) for times in seconds]


def _latency(seconds: Sequence[float]) -> Latency:
    """Return the median with the interval between two order statistics.

    Their ranks follow from the binomial distribution, whatever the distribution of the times (David
    and Nagaraja 2003, "Order Statistics", section 7.1).
    """
    ordered = _MILLISECONDS * np.sort(np.asarray(seconds, dtype=np.float64))
    count = len(ordered)
    rank = int(binom.ppf((1.0 - CONFIDENCE) / 2.0, count, 0.5))
    first = max(rank - 1, 0)
    return Latency(
        median=float(np.median(ordered)),
        lower=float(ordered[first]),
        upper=float(ordered[count - 1 - first]),
        requests=count,
    )
