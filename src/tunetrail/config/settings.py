"""Settings: all sections in the order in which data flows, and the specification's two dicts."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tunetrail.config.checks import check
from tunetrail.config.data import (
    AugmentationConfig,
    CleaningConfig,
    FeatureEngineeringConfig,
    PreparationConfig,
    SplitConfig,
)
from tunetrail.config.embedding import EmbeddingConfig
from tunetrail.config.language_model import LanguageModelConfig
from tunetrail.config.model_types import MODEL_TYPES
from tunetrail.config.stores import DatabaseConfig, TrackingConfig
from tunetrail.config.training import AUTO, CrossValidationConfig
from tunetrail.config.validation import ValidationConfig
from tunetrail.errors import ConfigError, did_you_mean, naming_section


@dataclass(kw_only=True)
class EvaluationConfig:
    """How candidates are scored and compared with root: a paired bootstrap of `bootstrap_samples` draws."""

    batch_size: int = 32
    bootstrap_samples: int = 2000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        check(self.batch_size >= 1, "evaluation.batch_size", "at least 1", self.batch_size)
        check(
            self.bootstrap_samples >= 100,
            "evaluation.bootstrap_samples",
            "at least 100",
            self.bootstrap_samples,
        )
        check(
            0.5 <= self.confidence < 1.0,
            "evaluation.confidence",
            "at least 0.5 and below 1",
            self.confidence,
        )


@dataclass(kw_only=True)
class GateConfig:
    """When root moves: the lower bound of the improvement's interval must be above `minimum_improvement`.

    With `require_interval: false` the point estimate is enough.
    """

    minimum_improvement: float = 0.0
    require_interval: bool = True

    def __post_init__(self) -> None:
        check(
            math.isfinite(self.minimum_improvement),
            "gate.minimum_improvement",
            "finite",
            self.minimum_improvement,
        )


@dataclass(kw_only=True)
class Settings:
    """Everything that a training run can be told, but for the session and the model type."""

    seed: int = 42
    output_dir: str = "training_output"
    model_dir: str = "models"
    database: DatabaseConfig = field(default_factory=DatabaseConfig)
    preparation: PreparationConfig = field(default_factory=PreparationConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    feature_engineering: FeatureEngineeringConfig = field(default_factory=FeatureEngineeringConfig)
    cross_validation: CrossValidationConfig = field(default_factory=CrossValidationConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    llm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**32, "seed", "between 0 and 2**32 - 1", self.seed)

    def of(self, model_type: str) -> EmbeddingConfig | LanguageModelConfig:
        """Return the section of a model type."""
        return self.embedding if model_type == "embedding" else self.llm

    def with_specification(
        self,
        pipeline_config: Mapping[str, Any] | None = None,
        training_config: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> "Settings":
        """Return a copy with the specification's two dicts applied.

        Args:
            pipeline_config: Any of `output_dir`, `n_splits`, `random_state`, `models_root_dir`.
            training_config: Any of `embedding` and `llm`, each with any of the nine keys of the specification.

        Raises:
            ConfigError: An unknown key (with the nearest known one), a wrong type or a value out of range.
        """
        pipeline_config, training_config = dict(pipeline_config or {}), dict(training_config or {})
        _check_keys("pipeline_config", pipeline_config, tuple(_PIPELINE_KEYS))
        _check_keys("training_config", training_config, MODEL_TYPES)
        changed = self
        for key, (section, name, kind) in _PIPELINE_KEYS.items():
            if key in pipeline_config:
                value = _typed(f"pipeline_config[{key!r}]", pipeline_config[key], kind)
                changed = _replaced(changed, section, {name: value})
        for model_type, given in training_config.items():
            check(isinstance(given, Mapping), f"training_config[{model_type!r}]", "a dict", given)
            _check_keys(f"training_config[{model_type!r}]", given, tuple(_TRAINING_KEYS))
            values = {
                key: value
                if value == AUTO and key in _FOUND
                else _typed(f"training_config[{model_type!r}][{key!r}]", value, _TRAINING_KEYS[key])
                for key, value in given.items()
            }
            with naming_section(model_type):
                changed = _replaced(changed, (model_type, "training"), values)
        return changed


_PIPELINE_KEYS: dict[str, tuple[tuple[str, ...], str, type]] = {
    "output_dir": ((), "output_dir", str),
    "n_splits": (("cross_validation",), "n_splits", int),
    "random_state": ((), "seed", int),
    "models_root_dir": ((), "model_dir", str),
}


_FOUND = ("batch_size", "learning_rate")
"""Keys that may be `auto`."""

_TRAINING_KEYS: dict[str, type] = {
    "batch_size": int,
    "learning_rate": float,
    "num_epochs": int,
    "warmup_steps": int,
    "weight_decay": float,
    "use_mixed_precision": bool,
    "max_grad_norm": float,
    "early_stopping_patience": int,
    "logging_steps": int,
}


_Config = TypeVar("_Config")


def _replaced(config: _Config, section: tuple[str, ...], values: Mapping[str, Any]) -> _Config:
    """Return a copy of the dataclass with `values` set in the section of that path."""
    if section:
        inner = _replaced(getattr(config, section[0]), section[1:], values)
        values = {section[0]: inner}
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is str and hasattr(value, "__fspath__"):
        return str(value)
    accepted = (int, float) if kind is float else (kind,)
    right = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    check(right, name, f"a value of type {kind.__name__}", value)
    return kind(value)


def _check_keys(name: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise ConfigError(f"{name} has no key {key!r}.{hint} Known keys: {', '.join(known)}.")
