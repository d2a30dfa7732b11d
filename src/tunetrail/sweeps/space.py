"""The search space of a sweep: which parameters vary, and over which values."""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

Value = int | float | str
"""A parameter's value for Optuna: a number if it is one, otherwise its text."""


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A key of the configuration, or a group, that varies within a sweep.

    Attributes:
        key: The key as it was typed, with `+` or `++` in front if it adds something.
        distribution: Its values for Optuna.
        texts: Its values as they are typed, in the order of a grid; empty for an interval.
    """

    key: str
    distribution: CategoricalDistribution | FloatDistribution | IntDistribution
    texts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The key without signs."""
        return self.key.lstrip("+")

    @property
    def is_interval(self) -> bool:
        """Whether the values can't be listed."""
        return not self.texts

    def values(self) -> tuple[Value, ...]:
        """Return the values for Optuna, in the order of `texts`; empty for an interval."""
        return tuple(map(value_of, self.texts))

    def override(self, value: Value) -> str:
        """Return the override that sets the parameter to one of its values."""
        if self.is_interval:
            return f"{self.key}={value!r}"
        if isinstance(self.distribution, CategoricalDistribution):
            return f"{self.key}={self.texts[self.values().index(value)]}"
        # Optuna and Hydra may round the steps of a range of decimals differently.
        nearest = min(self.texts, key=lambda text: abs(float(text) - float(value)))
        return f"{self.key}={nearest}"


@dataclass(frozen=True)
class SearchSpace:
    """The parameters that vary within a sweep, in the order in which they were typed."""

    parameters: tuple[Parameter, ...]

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The distributions of the parameters, by their names."""
        return {parameter.name: parameter.distribution for parameter in self.parameters}

    @property
    def is_finite(self) -> bool:
        """Whether all combinations can be listed."""
        return not any(parameter.is_interval for parameter in self.parameters)

    def grid(self) -> Iterator[dict[str, Value]]:
        """Yield all combinations of a finite space; the last parameter varies fastest."""
        names = list(self.distributions)
        for values in product(*(parameter.values() for parameter in self.parameters)):
            yield dict(zip(names, values, strict=True))

    def probes(self) -> Iterator[dict[str, Value]]:
        """Yield a few combinations with each listed value and both ends of each interval."""
        choices: dict[str, tuple[Value, ...]] = {}
        for parameter in self.parameters:
            distribution = parameter.distribution
            if isinstance(distribution, CategoricalDistribution) or not parameter.is_interval:
                choices[parameter.name] = parameter.values()
            else:
                choices[parameter.name] = (distribution.low, distribution.high)

        first = {name: values[0] for name, values in choices.items()}
        yield first
        for name, values in choices.items():
            for value in values[1:]:
                yield first | {name: value}
        # All at their other end: the largest batch with the largest model, for example.
        yield {name: values[-1] for name, values in choices.items()}

    def overrides(self, values: Mapping[str, Value]) -> tuple[str, ...]:
        """Return the overrides that set all parameters, given their values by name."""
        return tuple(parameter.override(values[parameter.name]) for parameter in self.parameters)

    def to_plain(self) -> list[dict[str, Any]]:
        """Return the space as plain JSON values."""
        plain = []
        for parameter in self.parameters:
            distribution = json.loads(distribution_to_json(parameter.distribution))
            texts = list(parameter.texts)
            plain.append({"key": parameter.key, "distribution": distribution, "texts": texts})
        return plain

    @classmethod
    def from_plain(cls, plain: list[dict[str, Any]]) -> Self:
        """Return the space that `to_plain` gave."""
        parameters = []
        for values in plain:
            distribution: Any = json_to_distribution(json.dumps(values["distribution"]))
            parameter = Parameter(
                key=values["key"], distribution=distribution, texts=tuple(values["texts"])
            )
            parameters.append(parameter)
        return cls(tuple(parameters))


def value_of(text: str) -> Value:
    """Return the finite number that a text is, or the text itself."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            value = kind(text)
            return value if math.isfinite(value) else text
    return text
