import dataclasses
import re
import runpy
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from tunetrail.cli.composition import TrainRequest, checked_request, register_schema
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
    Settings,
    SplitConfig,
    TrainingConfig,
    ValidationConfig,
    check_identifier,
)
from tunetrail.errors import ConfigError
from tunetrail.paths import conf_dir, experiments_dir

NAN, INFINITY = float("nan"), float("inf")
PIPELINE_CONFIG = {
    "output_dir": "training_output",
    "n_splits": 5,
    "random_state": 42,
    "models_root_dir": "/path/to/models",
}
EMBEDDING_TRAINING = {
    "batch_size": 32,
    "learning_rate": 2e-5,
    "num_epochs": 3,
    "warmup_steps": 100,
    "weight_decay": 0.01,
    "use_mixed_precision": True,
    "max_grad_norm": 1.0,
    "early_stopping_patience": 3,
    "logging_steps": 100,
}
TRAINING_CONFIG = {
    "embedding": EMBEDDING_TRAINING,
    "llm": {**EMBEDDING_TRAINING, "batch_size": 8, "learning_rate": 1e-5},
}
GROUP_FILES = sorted(file.relative_to(conf_dir()) for file in conf_dir().glob("*/*.yaml"))
EXPERIMENTS = sorted(file.stem for file in experiments_dir().glob("*.yaml"))


def compose(overrides: list[str]) -> Any:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir

    register_schema()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra_compose("train", overrides)


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
        (TrainingConfig, "batch_size", 0, "training.batch_size must be auto or at least 1"),
        (TrainingConfig, "num_epochs", 0, "training.num_epochs must be at least 1"),
        (TrainingConfig, "logging_steps", 0, "training.logging_steps must be at least 1"),
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
        (CrossValidationConfig, {"n_splits": 2, "budget": 1.0}),
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


def test_with_specification_applies_the_documented_dicts() -> None:
    settings = Settings().with_specification(PIPELINE_CONFIG, TRAINING_CONFIG)
    assert (settings.output_dir, settings.model_dir, settings.seed) == (
        "training_output",
        "/path/to/models",
        42,
    )
    assert settings.cross_validation.n_splits == 5
    for model_type, section in (("embedding", settings.embedding), ("llm", settings.llm)):
        given = TRAINING_CONFIG[model_type]
        assert {name: getattr(section.training, name) for name in given} == given


def test_with_specification_leaves_the_original_and_what_is_not_given() -> None:
    before = Settings(seed=7)
    after = before.with_specification({"n_splits": 3}, {"llm": {"batch_size": 2}})
    assert before == Settings(seed=7)
    assert after.cross_validation.n_splits == 3 and after.llm.training.batch_size == 2
    assert (
        dataclasses.replace(after, cross_validation=before.cross_validation, llm=before.llm)
        == before
    )


def test_with_specification_accepts_paths_and_whole_numbers_as_floats() -> None:
    settings = Settings().with_specification(
        {"output_dir": Path("out")}, {"embedding": {"max_grad_norm": 1}}
    )
    assert settings.output_dir == "out"
    assert isinstance(settings.embedding.training.max_grad_norm, float)


@pytest.mark.parametrize(
    ("pipeline", "training", "message"),
    [
        ({"n_split": 5}, None, "pipeline_config has no key 'n_split'. Did you mean 'n_splits'"),
        (
            {"zzz": 5},
            None,
            "pipeline_config has no key 'zzz'. Known keys: output_dir, n_splits, random_state, models_root_dir",
        ),
        (
            None,
            {"embeddings": {}},
            "training_config has no key 'embeddings'. Did you mean 'embedding'",
        ),
        (
            None,
            {"llm": {"learning_rte": 1e-5}},
            r"training_config\['llm'\] has no key .* Did you mean 'learning_rate'",
        ),
        (None, {"llm": {"schedule": "cosine"}}, r"training_config\['llm'\] has no key 'schedule'"),
        (
            None,
            {"llm": {"num_epochs": "auto"}},
            r"training_config\['llm'\]\['num_epochs'\] must be",
        ),
        (
            None,
            {"llm": {"batch_size": 0}},
            r"^llm\.training\.batch_size must be auto or at least 1, got 0",
        ),
        (None, {"llm": 3}, r"training_config\['llm'\] must be a dict, got 3"),
        (
            {"n_splits": "5"},
            None,
            r"pipeline_config\['n_splits'\] must be a value of type int, got '5'",
        ),
        (
            {"n_splits": True},
            None,
            r"pipeline_config\['n_splits'\] must be a value of type int, got True",
        ),
        (
            {"n_splits": 2.5},
            None,
            r"pipeline_config\['n_splits'\] must be a value of type int, got 2.5",
        ),
        (
            {"output_dir": 3},
            None,
            r"pipeline_config\['output_dir'\] must be a value of type str, got 3",
        ),
        (
            {"random_state": None},
            None,
            r"pipeline_config\['random_state'\] must be a value of type int, got None",
        ),
        (
            None,
            {"llm": {"learning_rate": "1e-5"}},
            r"\['learning_rate'\] must be a value of type float, got '1e-5'",
        ),
        (
            None,
            {"llm": {"use_mixed_precision": 1}},
            r"\['use_mixed_precision'\] must be a value of type bool, got 1",
        ),
        ({"n_splits": 1}, None, "cross_validation.n_splits must be 0"),
        (None, {"llm": {"batch_size": 0}}, "training.batch_size must be auto or at least 1, got 0"),
    ],
)
def test_with_specification_refuses(pipeline: Any, training: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings().with_specification(pipeline, training)


@pytest.mark.parametrize("value", ["a", "session_123", "2024-03-07.b", "x" * 128])
def test_check_identifier_returns_a_safe_name(value: str) -> None:
    assert check_identifier("session_id", value) == value


@pytest.mark.parametrize(
    "value", ["", ".hidden", "-x", "a/b", "../a", "a b", "a\n", "é", "x" * 129, 3, None]
)
def test_check_identifier_refuses(value: Any) -> None:
    with pytest.raises(ConfigError, match="session_id must be 1 to 128 letters"):
        check_identifier("session_id", value)


def test_conf_has_exactly_the_keys_of_the_schema() -> None:
    from omegaconf import OmegaConf

    composed = OmegaConf.to_container(compose(["session_id=s1"]), resolve=True)

    def keys(values: Any) -> Any:
        return (
            {name: keys(value) for name, value in values.items()}
            if isinstance(values, dict)
            else None
        )

    assert keys(composed) == keys(dataclasses.asdict(TrainRequest(session_id="s1")))


def test_conf_composes_to_the_schemas_defaults_() -> None:
    """What conf/ sets differently from the dataclasses is named here: the two doors don't drift apart unseen."""
    composed, default = checked_request(compose(["session_id=s1"])), TrainRequest(session_id="s1")
    changed = {}

    def collect(one: Any, other: Any, prefix: str) -> None:
        for each in dataclasses.fields(one):
            left, right = getattr(one, each.name), getattr(other, each.name)
            if dataclasses.is_dataclass(left):
                collect(left, right, f"{prefix}{each.name}.")
            elif left != right:
                changed[f"{prefix}{each.name}"] = left

    collect(composed, default, "")
    assert changed == {}


@pytest.mark.parametrize("file", GROUP_FILES, ids=str)
def test_conf_composes_with_every_option_of_every_group(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNETRAIL_DATABASE_URL", "postgresql+psycopg://localhost/tunetrail")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    request = checked_request(compose(["session_id=s1", f"{file.parent}={file.stem}"]))
    assert request.session_id == "s1"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_conf_composes_with_every_experiment(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TUNETRAIL_HOME", str(tmp_path))
    monkeypatch.setenv("TUNETRAIL_SHIPPED", str(experiments_dir().parent))
    composed = compose(["session_id=s1", f"+experiments={name}"])
    assert checked_request(composed) != checked_request(compose(["session_id=s1"]))


def leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    values_by_key = {}
    for name, value in values.items():
        if isinstance(value, dict):
            values_by_key.update(leaves(value, f"{prefix}{name}."))
        else:
            values_by_key[f"{prefix}{name}"] = value
    return values_by_key


@pytest.mark.parametrize("file", GROUP_FILES, ids=str)
def test_conf_repeats_no_default_of_the_schema(file: Path) -> None:
    """A default has one home: an option sets what differs, and the key that it is named after."""
    from omegaconf import OmegaConf

    path = conf_dir() / file
    is_global = "# @package _global_" in path.read_text()
    option: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    values = leaves(option if is_global else {str(file.parent): option})
    defaults = leaves(dataclasses.asdict(TrainRequest()))

    repeated = [key for key, value in values.items() if value == defaults[key] != file.stem]

    assert repeated == []


@pytest.mark.parametrize(
    ("option", "key", "value"),
    [
        ("optimizer=adamw", "optimizer.name", "adamw"),
        ("optimizer=adam", "optimizer.name", "adam"),
        ("optimizer=adafactor", "optimizer.name", "adafactor"),
        ("optimizer=sgd", "optimizer.name", "sgd"),
        ("schedule=linear", "schedule", "linear"),
        ("schedule=cosine", "schedule", "cosine"),
        ("schedule=constant", "schedule", "constant"),
        ("schedule=inverse_sqrt", "schedule", "inverse_sqrt"),
        ("schedule=wsd", "schedule", "wsd"),
        ("trainer=default", "precision", "auto"),
        ("trainer=float32", "precision", "32-true"),
        ("trainer=bfloat16", "precision", "bf16-mixed"),
        ("trainer=float16", "precision", "16-mixed"),
        ("trainer=accumulate", "batches.accumulate", 4),
        ("trainer=low_memory", "memory.gradient_checkpointing", True),
        ("callbacks=default", "early_stopping_patience", 3),
        ("callbacks=no_early_stopping", "early_stopping_patience", 0),
        ("callbacks=frequent_checkpoints", "checkpoints.every_steps", 100),
        ("callbacks=ema", "averaging.kind", "ema"),
        ("callbacks=swa", "averaging.kind", "swa"),
    ],
)
def test_training_group_sets_both_model_types(option: str, key: str, value: Any) -> None:
    default = checked_request(compose(["session_id=s1"]))
    request = checked_request(compose(["session_id=s1", option]))

    for section in (request.embedding.training, request.llm.training):
        assert attrgetter(key)(section) == value
    changed = dataclasses.replace(request, embedding=default.embedding, llm=default.llm)
    assert changed == default


def test_training_groups_have_no_option_without_a_test() -> None:
    groups = ("optimizer", "schedule", "trainer", "callbacks")

    options = [file for file in GROUP_FILES if str(file.parent) in groups]

    assert len(options) == 20


def test_callbacks_go_together_and_a_key_has_the_last_word() -> None:
    overrides = ["callbacks=[ema,frequent_checkpoints]", "llm.training.averaging.kind=swa"]

    request = checked_request(compose(["session_id=s1", *overrides]))

    assert request.embedding.training.averaging.kind == "ema"
    assert request.llm.training.averaging.kind == "swa"
    assert request.llm.training.checkpoints.every_steps == 100


def test_specification_and_old_keys_stay_valid() -> None:
    keys = {**EMBEDDING_TRAINING, "optimizer.name": "sgd", "schedule": "cosine"}
    overrides = [f"embedding.training.{key}={value}" for key, value in keys.items()]

    training = checked_request(compose(["session_id=s1", *overrides])).embedding.training

    assert {key: attrgetter(key)(training) for key in keys} == keys


def test_configuration_page_is_current_and_explains_every_setting() -> None:
    script = runpy.run_path(str(conf_dir().parent / "docs" / "write_configuration.py"))

    page = script["reference"]()

    assert script["PAGE"].read_text() == page, "docs/configuration.md is old: run `make docs`"
    documented = re.findall(r"^- \*\*`([^`]+)`\*\*.*\n  \S", page, re.MULTILINE)
    settings = leaves(dataclasses.asdict(TrainRequest()))
    for key in settings:
        # The keys of a check are explained once, and so are the keys of a training.
        check, _, name = key.rpartition(".")
        name_of_check = f"validation.CHECK.{name}" if check in documented else key
        assert name_of_check.replace("llm.training.", "embedding.training.") in documented
