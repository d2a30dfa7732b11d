"""The typed schema of conf/: what can be set, its default, and the check of each value.

Hydra composes the YAML files of conf/ against these dataclasses, and the Python API builds the
same objects, so that both share every check. A setting is one line with its default and its rule,
and a docstring from which `make docs` writes docs/configuration.md.
"""

from tunetrail.config.checks import check_identifier
from tunetrail.config.data import (
    AUGMENTATION_METHODS,
    AugmentationConfig,
    CleaningConfig,
    FeatureEngineeringConfig,
    HardNegativesConfig,
    PreparationConfig,
    PrivacyConfig,
    SplitConfig,
)
from tunetrail.config.embedding import EmbeddingConfig, FurtherLossesConfig
from tunetrail.config.evaluation import (
    CrossValidationConfig,
    EvaluationConfig,
    GateConfig,
    GenerationConfig,
)
from tunetrail.config.language_model import (
    OBJECTIVES,
    AdapterConfig,
    KtoConfig,
    LanguageModelConfig,
    PreferenceConfig,
)
from tunetrail.config.sessions import (
    checked_session_ids,
    name_of_sessions,
    plain_session_ids,
    sessions_of_name,
)
from tunetrail.config.settings import (
    MISSING,
    MODEL_SECTIONS,
    ModelSection,
    Settings,
    TrainRequest,
)
from tunetrail.config.stores import (
    DatabaseConfig,
    RetentionConfig,
    TrackingConfig,
    default_database_url,
)
from tunetrail.config.sweep import SET_BY_SWEEP, SearchConfig, SweepConfig
from tunetrail.config.training import (
    AUTO,
    BASE,
    OPTIMIZERS,
    SCHEDULES,
    AveragingConfig,
    BatchesConfig,
    CheckpointsConfig,
    GuardsConfig,
    MemoryConfig,
    OptimizerConfig,
    TrainingConfig,
)
from tunetrail.config.validation import (
    CheckConfig,
    ConversationChecksConfig,
    DriftChecksConfig,
    LabelChecksConfig,
    RowChecksConfig,
    ValidationConfig,
    VectorChecksConfig,
)
from tunetrail.config.watch import WatchConfig

__all__ = [
    "AUGMENTATION_METHODS",
    "AUTO",
    "BASE",
    "MISSING",
    "MODEL_SECTIONS",
    "OBJECTIVES",
    "OPTIMIZERS",
    "SCHEDULES",
    "SET_BY_SWEEP",
    "AdapterConfig",
    "AugmentationConfig",
    "AveragingConfig",
    "BatchesConfig",
    "CheckConfig",
    "CheckpointsConfig",
    "CleaningConfig",
    "ConversationChecksConfig",
    "CrossValidationConfig",
    "DatabaseConfig",
    "DriftChecksConfig",
    "EmbeddingConfig",
    "EvaluationConfig",
    "FeatureEngineeringConfig",
    "FurtherLossesConfig",
    "GateConfig",
    "GenerationConfig",
    "GuardsConfig",
    "HardNegativesConfig",
    "KtoConfig",
    "LabelChecksConfig",
    "LanguageModelConfig",
    "MemoryConfig",
    "ModelSection",
    "OptimizerConfig",
    "PreferenceConfig",
    "PreparationConfig",
    "PrivacyConfig",
    "RetentionConfig",
    "RowChecksConfig",
    "SearchConfig",
    "Settings",
    "SplitConfig",
    "SweepConfig",
    "TrackingConfig",
    "TrainRequest",
    "TrainingConfig",
    "ValidationConfig",
    "VectorChecksConfig",
    "WatchConfig",
    "check_identifier",
    "checked_session_ids",
    "default_database_url",
    "name_of_sessions",
    "plain_session_ids",
    "sessions_of_name",
]
