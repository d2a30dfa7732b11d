"""A metric: name, label, direction, and a formula that works on resamples of the examples.

A metric is computed on all examples and on a bootstrap's resamples by the same code. Most metrics
are functions of sums over the examples: a resample is then a row of counts, and thousands of them
take one matrix product.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Needs = Callable[[str], bool]
"""Takes the name of a metric; tells whether to compute it."""
Values = Mapping[str, Array]
"""Per-example values by name, each [examples]."""
Statistic = Callable[[Values, Array], Floats]
"""Takes values [examples] by name and indices [resamples, examples]; returns [resamples]."""
CountStatistic = Callable[[Floats], Floats]
"""Takes how often each cluster was drawn, [resamples, clusters]; returns [resamples]."""
Columns = Callable[[Values], Floats]
"""Takes values [examples] by name; returns what a metric sums over them, [sums, examples]."""
Resampler = Callable[[Values, Array], CountStatistic]
"""Takes values [examples] by name and the cluster of each example, [examples], as an index."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """A metric of a model on a set of examples.

    Attributes:
        name: Its name in results and in MLflow.
        label: Its name for people.
        reads: Names of the per-example values that it depends on.
        statistic: Its formula, for resamples given as indices.
        resampler: Its formula, for resamples of whole clusters given as counts.
        higher_is_better: Its direction.
        per_example: Whether it has a value for each example, under its name.
        weight: Name of the values by which examples weigh more or less; None if they weigh the
            same.
        best: The best value that there is, also of a single example; None if there is none.
        ratio: For a ratio of sums from 0 to 1, such as the mean of such values: returns what is
            summed, numerators and denominators [2, examples]; None for other metrics.
        is_unbounded_mean: Whether it is the mean of per-example values that may be anything.
        best_is_known: Whether the best value of an example is 1. If not, it is the best that
            occurs: a query with one right document has a precision@10 of at most 0.1.
        has_interval: Whether an interval can hold its true value.
        of_classes: Whether it says how well positive pairs are told from negative ones.
        optimism: How much a choice by the examples themselves flatters it, for resamples of whole
            clusters; None if nothing is chosen.
    """

    name: str
    label: str
    reads: tuple[str, ...]
    statistic: Statistic
    resampler: Resampler
    higher_is_better: bool = True
    per_example: bool = True
    weight: str | None = None
    best: float | None = None
    ratio: Columns | None = None
    is_unbounded_mean: bool = False
    best_is_known: bool = True
    has_interval: bool = True
    of_classes: bool = False
    optimism: Resampler | None = None


def sums_resampler(columns: Columns, formula: Callable[[Floats], Floats]) -> Resampler:
    """Return the resampler of a metric that depends only on sums over the examples.

    Args:
        columns: Returns what is summed, [columns, examples].
        formula: Takes the sums, [columns, resamples]; returns [resamples].
    """

    def resampler(values: Values, cluster_of: Array) -> CountStatistic:
        # Once for all resamples: a cluster drawn twice adds its sums twice.
        cluster_sums = np.stack(
            [np.bincount(cluster_of, weights=column) for column in columns(values)], axis=1
        )
        return lambda counts: formula((counts @ cluster_sums).T)

    return resampler


def sums_metric(columns: Columns, formula: Callable[[Floats], Floats], **fields: Any) -> Metric:
    """Return a metric that depends only on sums over the examples.

    Args:
        columns: Returns what is summed, [columns, examples].
        formula: Takes the sums, [columns, resamples]; returns [resamples].
        fields: The other fields of `Metric`.
    """

    def statistic(values: Values, indices: Array) -> Floats:
        return formula(columns(values)[:, indices].sum(axis=-1))

    return Metric(statistic=statistic, resampler=sums_resampler(columns, formula), **fields)


def share_metric(name: str, label: str, **fields: Any) -> Metric:
    """Return a metric that is the mean of per-example values from 0 to 1."""
    return _mean_metric(name, label, ratio=mean_columns(name), **fields)


def mean_metric(name: str, label: str, **fields: Any) -> Metric:
    """Return a metric that is the mean of per-example values without bounds."""
    return _mean_metric(name, label, is_unbounded_mean=True, **fields)


def _mean_metric(name: str, label: str, **fields: Any) -> Metric:
    columns = mean_columns(name)
    return sums_metric(columns, ratio, name=name, label=label, reads=(name,), **fields)


def mean_columns(name: str) -> Columns:
    """Return the sums whose ratio is the mean of per-example values."""

    def columns(values: Values) -> Floats:
        column = values[name].astype(np.float64)
        return np.stack([column, np.ones_like(column)])

    return columns


def ratio_metric(
    numerator: str, denominator: str, formula: Callable[[Floats], Floats], **fields: Any
) -> Metric:
    """Return a metric that is a ratio of sums, not a mean of ratios.

    Each unit of the denominator, such as a byte, counts the same, however long its text.
    """

    def columns(values: Values) -> Floats:
        return np.stack([values[numerator], values[denominator]]).astype(np.float64)

    reads = (numerator, denominator)
    fields = {"higher_is_better": False, "weight": denominator, **fields}
    return sums_metric(columns, formula, reads=reads, **fields)


def ratio(sums: Floats) -> Floats:
    """Return the ratios of two sums, [2, resamples]."""
    numerators, denominators = sums
    ratios: Floats = numerators / denominators
    return ratios


def ratio_or_nan(sums: Floats) -> Floats:
    """Return the ratios; NaN for a resample without anything to divide by."""
    numerators, denominators = sums
    unknown = np.full_like(numerators, np.nan)
    ratios: Floats = np.divide(numerators, denominators, out=unknown, where=denominators > 0)
    return ratios


def mean_of_known(name: str, label: str, **fields: Any) -> Metric:
    """Return a metric that is the mean of its per-example values, without those that are NaN."""
    columns = known_columns(name)
    return sums_metric(columns, ratio_or_nan, name=name, label=label, reads=(name,), **fields)


def known_columns(name: str) -> Columns:
    """Return the sums whose ratio is the mean of the per-example values that aren't NaN."""

    def columns(values: Values) -> Floats:
        column = values[name].astype(np.float64)
        return np.stack([np.nan_to_num(column), ~np.isnan(column)])

    return columns


Vectors = Callable[[str], Array]
"""Takes the column of a text; returns the model's unit vectors of it, [examples, dimensions]."""
OfVectors = Callable[[Sequence[Mapping[str, Any]], Vectors, Any], Array]
"""Takes records, their vectors and the options of the metric; returns [examples]."""
OfAnswer = Callable[[str, str, Any], float]
"""Takes an answer, the expected one and the options of the metric; returns its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleMetric:
    """A metric of an installed package: the mean of a value of each example.

    It is computed in addition to the metrics of the samples, if `evaluation.metrics` names it, and
    gets the intervals, the comparison and the tables that these have. It has either `of_vectors` or
    `of_answer`.

    Attributes:
        name: Its name in `evaluation.metrics`, in results and in MLflow.
        label: Its name for people.
        shapes: The sample shapes of which it can be computed, for `of_vectors`.
        of_vectors: For embedding models: takes one record per example, `Vectors`, and the options;
            returns the values, [examples], NaN for an example that has none.
        of_answer: For language models: takes what the model has written, the expected answer and
            the options; returns the value.
        options_class: The dataclass of its options; None if it has none.
        higher_is_better: Its direction.
    """

    name: str
    label: str
    shapes: tuple[str, ...] = ()
    of_vectors: OfVectors | None = None
    of_answer: OfAnswer | None = None
    options_class: type[Any] | None = None
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if (self.of_vectors is None) == (self.of_answer is None):
            raise ValueError(f"the metric {self.name} must have either of_vectors or of_answer")
        if (self.of_vectors is None) == bool(self.shapes):
            raise ValueError(
                f"the metric {self.name} must name its shapes if it has of_vectors, and none if it "
                "has of_answer"
            )

    @property
    def metric(self) -> Metric:
        """The record by which it is computed of resamples, compared and shown."""
        return mean_of_known(self.name, self.label, higher_is_better=self.higher_is_better)
