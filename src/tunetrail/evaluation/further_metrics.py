"""Metrics of installed packages that a configuration asks for, with their options."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunetrail.config import EvaluationConfig
from tunetrail.config.typed_options import options_of
from tunetrail.errors import ConfigError, TrainingError
from tunetrail.evaluation.metric import Array, ExampleMetric, Vectors
from tunetrail.extensions import METRICS


@dataclass(frozen=True, kw_only=True)
class FurtherMetric:
    """A metric of an installed package with its options.

    Attributes:
        metric: The metric.
        options: An object of its dataclass; None if it has no options.
    """

    metric: ExampleMetric
    options: Any = None

    def values(self, records: Sequence[Mapping[str, Any]], vectors: Vectors) -> Array:
        """Return the metric's value of each example of an embedding model, [examples].

        Raises:
            TrainingError: The package doesn't return one finite value, or NaN, for each example.
        """
        assert self.metric.of_vectors is not None
        values = np.asarray(self.metric.of_vectors(records, vectors, self.options), np.float64)
        if values.shape != (len(records),):
            raise TrainingError(
                f"the metric {self.metric.name} must return one value for each of the "
                f"{len(records)} examples, got an array of the shape {values.shape}. Correct its "
                "package, or leave it out of evaluation.metrics."
            )
        if np.isinf(values).any():
            raise TrainingError(
                f"the metric {self.metric.name} must return finite values, got an infinite one. "
                "Correct its package, or leave it out of evaluation.metrics."
            )
        return values

    def value(self, answer: str, expected: str) -> float:
        """Return the metric's value of an answer that a language model has written."""
        assert self.metric.of_answer is not None
        return float(self.metric.of_answer(answer, expected, self.options))


def metrics_of_vectors(config: EvaluationConfig) -> list[FurtherMetric]:
    """Return the metrics of embedding models that the settings ask for."""
    return [further for further in _further_metrics(config) if further.metric.of_vectors]


def metrics_of_answers(config: EvaluationConfig) -> list[FurtherMetric]:
    """Return the metrics of written answers that the settings ask for."""
    return [further for further in _further_metrics(config) if further.metric.of_answer]


def check_shape(config: EvaluationConfig, shape: str) -> None:
    """Raise `ConfigError` for a metric of embedding models that isn't one of the shape."""
    for further in metrics_of_vectors(config):
        shapes = further.metric.shapes
        if shape not in shapes:
            raise ConfigError(
                f"evaluation.metrics must name metrics for {shape} samples, got "
                f"{further.metric.name!r}, which is for {' or '.join(shapes)} samples. "
                "Leave it out."
            )


def _further_metrics(config: EvaluationConfig) -> list[FurtherMetric]:
    further = []
    for name in config.metrics:
        metric: ExampleMetric = METRICS.load(name)
        options = options_of(metric, "evaluation.extensions", config.extensions)
        further.append(FurtherMetric(metric=metric, options=options))
    return further
