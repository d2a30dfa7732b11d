"""A metric of embedding models: the share of anchors whose positive is near enough to be found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunetrail.config.checks import Rule, setting
from tunetrail.evaluation.metric import Array, ExampleMetric, Vectors


@dataclass(kw_only=True)
class NearOptions:
    """Options of the metric: `evaluation.extensions.near_answers.OPTION`."""

    cosine: float = setting(0.5, Rule("between -1 and 1", lambda cosine: -1 <= cosine <= 1))
    """Cosine of anchor and positive from which the positive is near."""


def is_near(records: Sequence[Mapping[str, Any]], vectors: Vectors, options: NearOptions) -> Array:
    """Return 1 or 0 for each record, [records]."""
    cosines = (vectors("anchor") * vectors("positive")).sum(axis=1)
    values: Array = (cosines >= options.cosine).astype(float)
    return values


NEAR_ANSWERS = ExampleMetric(
    name="near_answers",
    label="near answers",
    shapes=("pair",),
    of_vectors=is_near,
    options_class=NearOptions,
)
