"""Intervals of means whose values have no bounds: the bootstrap-t interval of clusters."""

from dataclasses import dataclass

import numpy as np

from tunetrail.evaluation.metric import Array, Floats
from tunetrail.evaluation.share_intervals import Interval


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusteredMean:
    """The mean of values that come in clusters, and its bootstrap-t interval.

    Percentiles of the resampled mean ignore that a sample with few of the rare, large values has
    both a low mean and a low spread. They hold a skewed mean of 30 values too rarely. Resamples of
    Student's t show this (Efron 1979; Hall 1988, https://doi.org/10.1214/aos/1176350933).

    Attributes:
        mean: The mean of all values.
        residuals: How far the sum of each cluster lies above that of as many means, [clusters].
        sizes: The number of values of each cluster, [clusters].
    """

    mean: float
    residuals: Floats
    sizes: Floats

    @classmethod
    def of(cls, values: Array, cluster_of: Array) -> "ClusteredMean":
        """Return the mean of values, [examples], whose clusters are given as an index."""
        mean = float(values.mean())
        residuals = np.bincount(cluster_of, weights=values - mean).astype(np.float64)
        sizes = np.bincount(cluster_of).astype(np.float64)
        return cls(mean=mean, residuals=residuals, sizes=sizes)

    def t_statistics(self, counts: Floats) -> Floats:
        """Return how many of its own standard errors each resample's mean lies above the mean.

        Args:
            counts: How often each cluster was drawn, [resamples, clusters].

        Returns:
            Student's t, [resamples]; infinite for a resample of equal clusters.
        """
        shifts, standard_errors = self._shifts_and_errors(counts)
        with np.errstate(divide="ignore", invalid="ignore"):
            return shifts / standard_errors

    def interval(self, t_statistics: Floats, confidence: float) -> Interval:
        """Return the bootstrap-t interval by the t statistics of resamples, [resamples]."""
        once = np.ones((1, len(self.sizes)))
        standard_error = self._shifts_and_errors(once)[1].item()

        tail = (1.0 - confidence) / 2.0
        # A sample with a high t has a mean that is too high: such a t leads to the lower bound.
        highest, lowest = np.quantile(t_statistics, (1.0 - tail, tail))
        lower, upper = self.mean - standard_error * np.array([highest, lowest])
        return Interval(float(lower), float(upper))

    def _shifts_and_errors(self, counts: Floats) -> tuple[Floats, Floats]:
        """Return how far each resample's mean is above the mean, and its standard error."""
        residuals, sizes = counts @ self.residuals, counts @ self.sizes
        shifts: Floats = residuals / sizes

        # A mean of clusters moves by their residuals from it, to first order.
        squares = counts @ self.residuals**2
        products = counts @ (self.residuals * self.sizes)
        squared_sizes = counts @ self.sizes**2
        squared_residuals = squares - 2.0 * shifts * products + shifts**2 * squared_sizes

        clusters = len(self.sizes)
        variances = clusters / (clusters - 1.0) * np.maximum(squared_residuals, 0.0) / sizes**2
        return shifts, np.sqrt(variances)
