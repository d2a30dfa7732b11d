from typing import Any

import pytest

from tunetrail.config import (
    AdapterConfig,
    AugmentationConfig,
    CrossValidationConfig,
    EmbeddingConfig,
    EvaluationConfig,
    FeatureEngineeringConfig,
    GateConfig,
    HardNegativesConfig,
    LanguageModelConfig,
    OptimizerConfig,
    Settings,
    SplitConfig,
    TrainingConfig,
    ValidationConfig,
)
from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import ConfigError

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("config", "name", "value", "rule"),
    [
        (ValidationConfig, "min_characters", 0, "validation.min_characters must be at least 1"),
        (
            ValidationConfig,
            "max_characters",
            0,
            "validation.max_characters must be at least min_characters=1",
        ),
        (
            ValidationConfig,
            "max_rejected_share",
            -0.1,
            "validation.max_rejected_share must be between 0 and 1",
        ),
        (
            ValidationConfig,
            "max_rejected_share",
            1.1,
            "validation.max_rejected_share must be between 0 and 1",
        ),
        (
            ValidationConfig,
            "max_rejected_share",
            NAN,
            "validation.max_rejected_share must be between 0 and 1",
        ),
        (
            SplitConfig,
            "validation_share",
            0.0,
            "split.validation_share must be between 0 and 1, both excluded",
        ),
        (
            SplitConfig,
            "validation_share",
            1.0,
            "split.validation_share must be between 0 and 1, both excluded",
        ),
        (SplitConfig, "test_share", 0.0, "split.test_share must be between 0 and 1, both excluded"),
        (SplitConfig, "test_share", NAN, "split.test_share must be between 0 and 1, both excluded"),
        (
            SplitConfig,
            "test_share",
            0.9,
            r"split.validation_share \+ split.test_share must be below 1",
        ),
        (
            SplitConfig,
            "near_duplicate_similarity",
            1.5,
            "split.near_duplicate_similarity must be between 0 and 1",
        ),
        (
            AugmentationConfig,
            "methods",
            ["typos"],
            "augmentation.methods must be one of word_.* Did you mean 'typo'",
        ),
        (
            AugmentationConfig,
            "methods",
            ["typo", "typo"],
            "augmentation.methods must be all different",
        ),
        (AugmentationConfig, "share", 2.0, "augmentation.share must be between 0 and 1"),
        (AugmentationConfig, "rate", 0.0, "augmentation.rate must be between 0 and 1"),
        (AugmentationConfig, "rate", 1.0, "augmentation.rate must be between 0 and 1"),
        (AugmentationConfig, "rate", NAN, "augmentation.rate must be between 0 and 1"),
        (
            AugmentationConfig,
            "translation_models",
            ["a"],
            "augmentation.translation_models must be two models",
        ),
        (
            AugmentationConfig,
            "generator",
            "",
            "augmentation.generator must be root, base or a model's name",
        ),
        (
            AugmentationConfig,
            "generations_per_row",
            0,
            "augmentation.generations_per_row must be at least 1",
        ),
        (AugmentationConfig, "max_new_tokens", 0, "augmentation.max_new_tokens must be at least 1"),
        (
            AugmentationConfig,
            "temperature",
            -0.1,
            "augmentation.temperature must be between 0 and 2",
        ),
        (
            AugmentationConfig,
            "temperature",
            NAN,
            "augmentation.temperature must be between 0 and 2",
        ),
        (
            AugmentationConfig,
            "round_trip_rank",
            0,
            "augmentation.round_trip_rank must be at least 1",
        ),
        (
            FeatureEngineeringConfig,
            "warn_truncated_share",
            -1.0,
            "warn_truncated_share must be between 0 and 1",
        ),
        (
            HardNegativesConfig,
            "candidates",
            0,
            "feature_engineering.hard_negatives.candidates must be at least 1",
        ),
        (
            HardNegativesConfig,
            "skip_top",
            50,
            "hard_negatives.skip_top must be at least 0 and below candidates=50",
        ),
        (
            HardNegativesConfig,
            "skip_top",
            -1,
            "hard_negatives.skip_top must be at least 0 and below candidates=50",
        ),
        (HardNegativesConfig, "margin", 1.1, "hard_negatives.margin must be between 0 and 1"),
        (HardNegativesConfig, "margin", NAN, "hard_negatives.margin must be between 0 and 1"),
        (
            HardNegativesConfig,
            "sampling",
            "hard",
            "hard_negatives.sampling must be one of hardest, random, got 'hard'",
        ),
        (
            HardNegativesConfig,
            "remine_every_epochs",
            -1,
            r"remine_every_epochs must be at least 0 \(0: only before",
        ),
        (
            CrossValidationConfig,
            "n_splits",
            1,
            r"cross_validation.n_splits must be 0 \(off\) or at least 2",
        ),
        (
            CrossValidationConfig,
            "n_splits",
            -2,
            r"cross_validation.n_splits must be 0 \(off\) or at least 2",
        ),
        (
            CrossValidationConfig,
            "budget",
            0.0,
            "cross_validation.budget must be above 0 and at most 1",
        ),
        (
            CrossValidationConfig,
            "budget",
            1.1,
            "cross_validation.budget must be above 0 and at most 1",
        ),
        (
            CrossValidationConfig,
            "budget",
            NAN,
            "cross_validation.budget must be above 0 and at most 1",
        ),
        (CrossValidationConfig, "max_cost", 0.0, "cross_validation.max_cost must be above 0"),
        (CrossValidationConfig, "max_cost", NAN, "cross_validation.max_cost must be above 0"),
        (TrainingConfig, "batch_size", 0, "training.batch_size must be auto or at least 1"),
        (TrainingConfig, "num_epochs", 0, "training.num_epochs must be at least 1"),
        (TrainingConfig, "logging_steps", -1, "training.logging_steps must be at least 0"),
        (
            TrainingConfig,
            "validations_per_epoch",
            0,
            "training.validations_per_epoch must be at least 1",
        ),
        (TrainingConfig, "warmup_steps", -1, "training.warmup_steps must be at least 0"),
        (
            TrainingConfig,
            "early_stopping_patience",
            -1,
            "training.early_stopping_patience must be at least 0",
        ),
        (
            TrainingConfig,
            "learning_rate",
            0.0,
            "training.learning_rate must be auto, or above 0 and at most 1",
        ),
        (
            TrainingConfig,
            "learning_rate",
            1.1,
            "training.learning_rate must be auto, or above 0 and at most 1",
        ),
        (
            TrainingConfig,
            "learning_rate",
            NAN,
            "training.learning_rate must be auto, or above 0 and at most 1",
        ),
        (TrainingConfig, "weight_decay", -0.1, "training.weight_decay must be between 0 and 1"),
        (TrainingConfig, "weight_decay", NAN, "training.weight_decay must be between 0 and 1"),
        (
            TrainingConfig,
            "max_grad_norm",
            -1.0,
            r"training.max_grad_norm must be at least 0 \(0: off\)",
        ),
        (
            TrainingConfig,
            "max_grad_norm",
            NAN,
            r"training.max_grad_norm must be at least 0 \(0: off\)",
        ),
        (
            TrainingConfig,
            "schedule",
            "cosin",
            "training.schedule must be one of linear, .* Did you mean 'cosine'",
        ),
        (TrainingConfig, "max_steps", 0, r"training.max_steps must be -1 \(off\) or at least 1"),
        (TrainingConfig, "max_steps", -2, r"training.max_steps must be -1 \(off\) or at least 1"),
        (EmbeddingConfig, "max_length", 3, "embedding.max_length must be at least 4 tokens"),
        (
            EmbeddingConfig,
            "shape",
            "pairs",
            "embedding.shape must be one of pair, .* Did you mean 'pair'",
        ),
        (
            EmbeddingConfig,
            "loss",
            "cosnt",
            "embedding.loss must be one of auto, .* Did you mean 'cosent'",
        ),
        (
            EmbeddingConfig,
            "query_prompt",
            "\ud800",
            "embedding.query_prompt must be a text of valid Unicode",
        ),
        (
            EmbeddingConfig,
            "document_prompt",
            None,
            "embedding.document_prompt must be a text of valid Unicode",
        ),
        (
            EmbeddingConfig,
            "mini_batch_size",
            -1,
            r"embedding.mini_batch_size must be at least 0 \(0: off\)",
        ),
        (
            EmbeddingConfig,
            "start_from",
            "rot",
            "embedding.start_from must be one of root, base.* Did you mean 'root'",
        ),
        (
            AdapterConfig,
            "kind",
            "lroa",
            "llm.adapter.kind must be one of lora, .* Did you mean 'lora'",
        ),
        (AdapterConfig, "rank", 0, "llm.adapter.rank must be at least 1"),
        (AdapterConfig, "alpha", 0, "llm.adapter.alpha must be at least 1"),
        (AdapterConfig, "dropout", 1.0, "llm.adapter.dropout must be at least 0 and below 1"),
        (AdapterConfig, "dropout", -0.1, "llm.adapter.dropout must be at least 0 and below 1"),
        (LanguageModelConfig, "max_length", 7, "llm.max_length must be at least 8 tokens"),
        (LanguageModelConfig, "start_from", "zero", "llm.start_from must be one of root, base"),
        (
            LanguageModelConfig,
            "objective",
            "dpo",
            "llm.objective must be one of auto, supervised, preference",
        ),
        (EvaluationConfig, "batch_size", 0, "evaluation.batch_size must be at least 1"),
        (
            EvaluationConfig,
            "bootstrap_samples",
            99,
            "evaluation.bootstrap_samples must be at least 100",
        ),
        (
            EvaluationConfig,
            "confidence",
            0.49,
            "evaluation.confidence must be at least 0.5 and below 1",
        ),
        (
            EvaluationConfig,
            "confidence",
            1.0,
            "evaluation.confidence must be at least 0.5 and below 1",
        ),
        (GateConfig, "minimum_improvement", INFINITY, "gate.minimum_improvement must be finite"),
        (GateConfig, "minimum_improvement", NAN, "gate.minimum_improvement must be finite"),
        (Settings, "seed", -1, "seed must be between 0 and"),
        (Settings, "seed", 2**32, "seed must be between 0 and"),
    ],
)
def test_config_refuses_a_value_out_of_range(
    config: type, name: str, value: Any, rule: str
) -> None:
    with pytest.raises(ConfigError, match=rule):
        config(**{name: value})


@pytest.mark.parametrize(
    ("config", "values"),
    [
        (ValidationConfig, {"min_characters": 5, "max_characters": 5, "max_rejected_share": 1.0}),
        (SplitConfig, {"near_duplicate_similarity": 0.0}),
        (CrossValidationConfig, {"n_splits": 2, "budget": 1.0, "max_cost": 20.0}),
        (
            TrainingConfig,
            {
                "learning_rate": 1.0,
                "warmup_steps": 0,
                "early_stopping_patience": 0,
                "max_grad_norm": 0.0,
            },
        ),
        (EvaluationConfig, {"confidence": 0.5, "bootstrap_samples": 100}),
        (AdapterConfig, {"kind": "none", "dropout": 0.0}),
        (Settings, {"seed": 2**32 - 1}),
    ],
)
def test_config_accepts_the_ends_of_its_ranges(config: type, values: dict[str, Any]) -> None:
    built = config(**values)
    assert {name: getattr(built, name) for name in values} == values


def test_embedding_config_refuses_a_loss_of_another_shape() -> None:
    with pytest.raises(
        ConfigError,
        match=r"embedding.loss for pair samples must be one of multiple_negatives_ranking, .*got 'mse'",
    ):
        EmbeddingConfig(shape="pair", loss="mse")


@pytest.mark.parametrize(
    ("section", "classes", "message"),
    [
        (
            "callbacks",
            {"mine": {"cpu_stats": True}},
            r"^trainer\.callbacks\.mine must be a mapping",
        ),
        ("callbacks", {"mine": "Timer"}, r"with the key _target_, got 'Timer'\. Set trainer\.call"),
        ("logger", {"mine": {"_target_": 3}}, r"^trainer\.logger\.mine must be .* Set trainer\.lo"),
        (
            "logger",
            {"../up": {"_target_": "CSVLogger"}},
            r"name in trainer\.logger must be 1 to 128",
        ),
    ],
)
def test_trainer_config_refuses_an_entry_without_a_class(
    section: str, classes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainerConfig(**{section: classes})


@pytest.mark.parametrize(
    ("optimizer", "rate", "is_doubtful"),
    [
        ("adamw", 1.0, True),
        ("adam", 0.011, True),
        ("adafactor", 0.05, False),
        ("sgd", 0.3, False),
        ("adamw", 2e-5, False),
        ("adamw", "auto", False),
    ],
)
def test_a_learning_rate_that_destroys_the_weights_is_doubtful(
    optimizer: str, rate: float | str, is_doubtful: bool
) -> None:
    training = TrainingConfig(learning_rate=rate, optimizer=OptimizerConfig(name=optimizer))

    sentences = training.doubtful()

    assert bool(sentences) == is_doubtful
    if is_doubtful:
        assert sentences[0].startswith(
            f"training.learning_rate={rate} is far above what {optimizer}"
        )
