"""All settings in the order in which data flows, and the two short dicts that may set some."""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from tunetrail.config.checks import (
    PATH,
    SHARE,
    Rule,
    check,
    check_settings,
    options_setting,
    setting,
)
from tunetrail.config.data import (
    AugmentationConfig,
    CleaningConfig,
    FeatureEngineeringConfig,
    PreparationConfig,
    SplitConfig,
)
from tunetrail.config.embedding import EmbeddingConfig
from tunetrail.config.evaluation import CrossValidationConfig, EvaluationConfig, GateConfig
from tunetrail.config.language_model import LanguageModelConfig
from tunetrail.config.sessions import SESSION_IDS
from tunetrail.config.stores import DatabaseConfig, RetentionConfig, TrackingConfig
from tunetrail.config.sweep import SweepConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import AUTO, TrainingConfig
from tunetrail.config.typed_options import check_names, typed_options
from tunetrail.config.validation import ValidationConfig
from tunetrail.config.watch import WatchConfig
from tunetrail.errors import ConfigError, did_you_mean, naming_section
from tunetrail.extensions import FAMILIES


class ModelSection(Protocol):
    """What the sections of the settings that configure a model have in common."""

    @property
    def model(self) -> str:
        """The base model: a short name, a hub id or a folder."""

    @property
    def max_length(self) -> int:
        """Tokens that the model reads of a row."""

    @property
    def start_from(self) -> str:
        """Where a training starts: `root` or `base`."""

    @property
    def training(self) -> TrainingConfig:
        """Hyperparameters of the training."""


MISSING = "???"
"""What Hydra takes for a value that has to be given."""
MODEL_SECTIONS = ("embedding", "llm")
"""The sections of the settings that configure a model and its training."""


_Section = TypeVar("_Section")

# Of a session: rows are repeated, so that a larger one would only take more time.
_LARGEST_WEIGHT = 10


@dataclass(kw_only=True)
class Settings:
    """Everything that a training run can be told, except for the session and the model type."""

    # NumPy's global generator takes no larger seed.
    seed: int = setting(42, Rule("between 0 and 2**32 - 1", lambda seed: 0 <= seed < 2**32))
    """Seed of every random number: dropout, the order of rows, folds, resamples. A row's
    split doesn't depend on it."""

    output_dir: str = setting("training_output", PATH)
    """Folder for reports, prepared rows and checkpoints of the runs."""

    model_dir: str = setting("models", PATH)
    """Folder to which the root version of each model type is exported, as
    `model_dir/TYPE/root`."""

    database: DatabaseConfig = field(default_factory=DatabaseConfig)
    """Database of sessions and samples."""

    preparation: PreparationConfig = field(default_factory=PreparationConfig)
    """Flow of the rows through the preparation."""

    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Checks of the rows."""

    cleaning: CleaningConfig = field(default_factory=CleaningConfig)
    """Repair of the texts, and removal of repeated rows."""

    split: SplitConfig = field(default_factory=SplitConfig)
    """Rows held out for validation and test."""

    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Extra rows for the train split."""

    session_weights: list[float] = field(default_factory=list)
    """How often each row of a session is learnt per epoch, in the order of `session_id`: with
    [1, 2], the rows of the second session twice, with [0.5, 1] half of the rows of the first
    one, which the seed draws. Above 0 and at most 10; an empty list is 1 for each. Rows of
    validation and test count once, and folds of the cross-validation know no weights."""

    replay: float = setting(0.0, SHARE)
    """Rows of earlier sessions that are learnt again, so that the model doesn't forget them, as a
    share of the session's own train rows: 0.2 adds one for every five (experience replay, Rolnick
    et al. 2019, https://arxiv.org/abs/1811.11682). They are drawn by the seed, as many from each
    session, from the train rows that root has learnt from. 0 replays none."""

    feature_engineering: FeatureEngineeringConfig = field(default_factory=FeatureEngineeringConfig)
    """Lengths of the texts, and hard negatives."""

    cross_validation: CrossValidationConfig = field(default_factory=CrossValidationConfig)
    """Folds trained before the training itself."""

    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Devices that train the models."""

    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    """Embedding model."""

    llm: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    """Language model."""

    families: dict[str, dict[str, Any]] = options_setting(FAMILIES)
    """Settings of model families that installed packages add, by family and key, as in
    `families.FAMILY.training.num_epochs=3`."""

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Comparison of the candidate with root."""

    gate: GateConfig = field(default_factory=GateConfig)
    """Condition for moving root to the candidate."""

    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """MLflow's store of runs and model versions."""

    retention: RetentionConfig = field(default_factory=RetentionConfig)
    """Versions that stay after a training."""

    sweep: SweepConfig = field(default_factory=SweepConfig)
    """Comparison of the jobs of a sweep."""

    def __post_init__(self) -> None:
        check_settings("", self)
        check_names("families", self.families, FAMILIES)
        allowed = all(0.0 < weight <= _LARGEST_WEIGHT for weight in self.session_weights)
        check(
            allowed,
            "session_weights",
            f"numbers above 0 and at most {_LARGEST_WEIGHT}",
            self.session_weights,
        )

    def family_section(self, name: str, options_class: type[_Section]) -> _Section:
        """Return the section of a family that an installed package adds.

        Args:
            name: The family.
            options_class: The dataclass of its settings, a `ModelSection`.

        Raises:
            ConfigError: A key is unknown, or a value is of the wrong type or out of range.
        """
        with naming_section(f"families.{name}"):
            section: _Section = typed_options(
                f"families.{name}", options_class, self.families.get(name, {})
            )
        return section

    def with_short_configs(
        self,
        pipeline_config: Mapping[str, Any] | None = None,
        training_config: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> "Settings":
        """Return a copy with the two short dicts of `NodeConfig` applied.

        Args:
            pipeline_config: Any of `output_dir`, `n_splits`, `random_state`, `models_root_dir`.
            training_config: Any of `embedding` and `llm`, each with any of `batch_size`,
                `learning_rate`, `num_epochs`, `warmup_steps`, `weight_decay`,
                `use_mixed_precision`, `max_grad_norm`, `early_stopping_patience`, `logging_steps`.

        Raises:
            ConfigError: An unknown key (with the nearest known one), a wrong type or a value out of
                range.
        """
        pipeline_config, training_config = pipeline_config or {}, training_config or {}
        _check_keys("pipeline_config", pipeline_config, _PIPELINE_KEYS)
        _check_keys("training_config", training_config, MODEL_SECTIONS)
        # Each change is a copy, so that an error leaves the caller's settings as they were.
        changed = self

        for key, value in pipeline_config.items():
            section, name, kind = _PIPELINE_KEYS[key]
            typed = _typed(f"pipeline_config[{key!r}]", value, kind)
            changed = _replaced(changed, section, {name: typed})

        for model_type, hyperparameters in training_config.items():
            name = f"training_config[{model_type!r}]"
            _check_keys(name, hyperparameters, _TRAINING_KEYS)

            # `auto` is the only word among these numbers.
            values = dict(hyperparameters)
            for key, value in hyperparameters.items():
                if value != AUTO or key not in _SEARCHED_KEYS:
                    values[key] = _typed(f"{name}[{key!r}]", value, _TRAINING_KEYS[key])
            with naming_section(model_type):
                changed = _replaced(changed, (model_type, "training"), values)

        return changed


@dataclass(kw_only=True)
class TrainRequest(Settings):
    """The schema of conf/train.yaml: the settings, the session and the model type."""

    # OmegaConf knows no `str | list[str]`; the metadata tells that it is text.
    session_id: Any = field(default=MISSING, metadata={"rule": SESSION_IDS, "text": True})
    """Session to learn from, which has to be named, or several that are learnt together, as in
    `session_id=[s1,s2]`; `tunetrail sessions` lists them."""

    model_type: str = "all"
    """Models to train: `embedding`, `llm` or `all`."""

    watch: WatchConfig = field(default_factory=WatchConfig)
    """What `tunetrail watch` waits for."""


# The section, the setting and the type that each key of `pipeline_config` stands for.
_PIPELINE_KEYS: dict[str, tuple[tuple[str, ...], str, type]] = {
    "output_dir": ((), "output_dir", str),
    "n_splits": (("cross_validation",), "n_splits", int),
    "random_state": ((), "seed", int),
    "models_root_dir": ((), "model_dir", str),
}

# The type of each key of `training_config`; the keys are fields of `TrainingConfig`.
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

# Keys that may also be `auto`.
_SEARCHED_KEYS = ("batch_size", "learning_rate")

_Config = TypeVar("_Config")


def _replaced(config: _Config, section: tuple[str, ...], values: Mapping[str, Any]) -> _Config:
    """Return a copy of the dataclass with `values` set in the section of that path."""
    # The innermost section is replaced first; each section around it is a new copy.
    if section:
        inner = _replaced(getattr(config, section[0]), section[1:], values)
        values = {section[0]: inner}
    # The copy runs its __post_init__, and so every check between its fields.
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def _typed(name: str, value: Any, kind: type) -> Any:
    """Return the value as its type: a path may stand for text, a whole number for a float."""
    if kind is str and hasattr(value, "__fspath__"):
        return str(value)

    # A bool is an int to Python, but no number of splits.
    accepted = (int, float) if kind is float else (kind,)
    has_type = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    check(has_type, name, f"a value of type {kind.__name__}", value)
    return kind(value)


def _check_keys(name: str, given: Any, known: Collection[str]) -> None:
    check(isinstance(given, Mapping), name, "a dict", given)
    for key in given:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise ConfigError(f"{name} has no key {key!r}.{hint} Known keys: {', '.join(known)}.")
