"""The typed schema of conf/: what can be set, its default, and the check of each value.

Hydra composes the YAML files of conf/ against these dataclasses; the Python API builds the very same objects, so both
doors share every check. Knows nothing of Hydra, torch or MLflow.
"""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tunetrail.errors import ConfigError, did_you_mean

MODEL_TYPES = ("embedding", "llm")
ALL = "all"
EMBEDDING_LOSSES = {
    "pair": ("multiple_negatives_ranking",),
    "score": ("cosent", "angle", "cosine_similarity"),
    "label": ("supervised_contrastive",),
    "vector": ("mse", "cosine"),
    "text": ("simcse",),
}
"""Losses by sample shape; the first of each is what `loss: auto` takes."""

AUGMENTATION_METHODS = (
    "word_dropout",
    "word_swap",
    "typo",
    "synonym",
    "back_translation",
    "generated_query",
    "paraphrase",
)
"""Ways to make a row from another one."""

SWEEP_RUN_VARIABLE = "TUNETRAIL_SWEEP_RUN"
"""Environment variable with the MLflow run of the sweep that this process is a job of."""
SWEPT_KEYS_VARIABLE = "TUNETRAIL_SWEPT_KEYS"
"""Environment variable with the keys that the sweep varies, separated by commas."""

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def _check(holds: bool, name: str, rule: str, value: object, advice: str = "") -> None:
    if not holds:
        raise ConfigError(f"{name} must be {rule}, got {value!r}.{' ' + advice if advice else ''}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, name, f"one of {', '.join(choices)}", value, did_you_mean(value, choices).strip())


def _check_share(name: str, value: float) -> None:
    _check(0.0 <= value <= 1.0, name, "between 0 and 1", value)


def check_identifier(name: str, value: str) -> str:
    """Return `value` if it is safe in a path, a tag and SQL; raises `ConfigError` otherwise."""
    _check(
        isinstance(value, str) and _IDENTIFIER.fullmatch(value) is not None,
        name,
        "1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        value,
    )
    return value


@dataclass(kw_only=True)
class DatabaseConfig:
    """Where sessions and samples live: an SQLAlchemy URL (SQLite or `postgresql+psycopg://`)."""

    url: str = "sqlite:///tunetrail.db"


def default_database_url() -> str:
    """Return $TUNETRAIL_DATABASE_URL, else a SQLite file in the folder that tunetrail is started in."""
    return os.environ.get("TUNETRAIL_DATABASE_URL") or DatabaseConfig().url


@dataclass(kw_only=True)
class TrackingConfig:
    """Where MLflow keeps runs and the model registry; `artifacts` is used for a new local experiment only."""

    uri: str = "sqlite:///mlflow.db"
    artifacts: str = "mlartifacts"
    experiment: str = "tunetrail"


@dataclass(kw_only=True)
class CheckConfig:
    """What one check of the validation does.

    `severity` is `error` (a finding stops the run), `warning` (it is reported) or `off`. The check becomes a finding
    where its measure is above `threshold`: the share of the rows concerned, but for `labels.imbalance` (the commonest
    label's rows for one of the rarest) and `drift` (a distance between 0 and 1). `set_aside` takes those rows out.
    """

    severity: str = "warning"
    threshold: float = 0.0
    set_aside: bool = False


def _check_checks(group: str, section: object, *, unusable: tuple[str, ...] = ()) -> None:
    """Check the checks of one group; rows that `unusable` ones are about can't be learnt from and have to go."""
    for each in dataclasses.fields(section):  # type: ignore[arg-type]
        check = getattr(section, each.name)
        if not isinstance(check, CheckConfig):
            continue
        name = f"validation.{group}.{each.name}"
        _check_choice(f"{name}.severity", check.severity, ("error", "warning", "off"))
        _check(
            math.isfinite(check.threshold) and check.threshold >= 0.0,
            f"{name}.threshold",
            "at least 0",
            check.threshold,
        )
        if name in ("validation.labels.imbalance", "validation.drift." + each.name) and check.set_aside:
            raise ConfigError(f"{name}.set_aside must be false, since the check is about the whole session, got True.")
        if check.severity == "off" and check.set_aside:
            raise ConfigError(f"{name}.set_aside must be false where its severity is off, got True.")
        if each.name in unusable:
            _check(
                check.severity != "off" and check.set_aside,
                name,
                "error or warning with set_aside, since such rows can't be learnt from",
                f"severity={check.severity}, set_aside={check.set_aside}",
            )


def _check_that(severity: str = "warning", threshold: float = 0.0, *, set_aside: bool = False) -> Any:
    return field(
        default_factory=lambda: CheckConfig(severity=severity, threshold=threshold, set_aside=set_aside),
    )


@dataclass(kw_only=True)
class RowChecksConfig:
    """Checks of each row's content; what can't be learnt from at all is set aside, what is only odd is reported."""

    wrong_type: CheckConfig = _check_that("error", 0.5, set_aside=True)
    missing: CheckConfig = _check_that("error", 0.5, set_aside=True)
    empty: CheckConfig = _check_that("error", 0.5, set_aside=True)
    too_short: CheckConfig = _check_that(set_aside=True)
    too_long: CheckConfig = _check_that(set_aside=True)
    too_many_tokens: CheckConfig = _check_that(threshold=0.1)
    encoding: CheckConfig = _check_that()
    language: CheckConfig = _check_that()
    constant: CheckConfig = _check_that(set_aside=True)
    contradictory: CheckConfig = _check_that()
    duplicate: CheckConfig = _check_that(threshold=0.05)
    outlier: CheckConfig = _check_that()

    def __post_init__(self) -> None:
        _check_checks("rows", self, unusable=("wrong_type", "missing", "empty"))


@dataclass(kw_only=True)
class LabelChecksConfig:
    """Checks of scores and labels. Without bounds, the usual scale that holds nearly all scores is taken."""

    score_range: CheckConfig = _check_that(set_aside=True)
    unknown_label: CheckConfig = _check_that()
    imbalance: CheckConfig = _check_that(threshold=20.0)
    mislabelled: CheckConfig = _check_that()
    minimum_score: float | None = None
    maximum_score: float | None = None
    known: list[str] | None = None

    def __post_init__(self) -> None:
        _check_checks("labels", self)
        if self.minimum_score is not None and self.maximum_score is not None:
            _check(
                self.minimum_score < self.maximum_score,
                "validation.labels.minimum_score",
                f"below maximum_score={self.maximum_score}",
                self.minimum_score,
            )


@dataclass(kw_only=True)
class VectorChecksConfig:
    """Checks of target vectors. Without `dimensions`, those of most rows are taken."""

    not_finite: CheckConfig = _check_that("error", 0.5, set_aside=True)
    zero_norm: CheckConfig = _check_that(set_aside=True)
    dimension: CheckConfig = _check_that("error", 0.5, set_aside=True)
    dimensions: int | None = None

    def __post_init__(self) -> None:
        _check_checks("vectors", self, unusable=("not_finite",))
        if self.dimensions is not None:
            _check(self.dimensions >= 1, "validation.vectors.dimensions", "at least 1", self.dimensions)


@dataclass(kw_only=True)
class ConversationChecksConfig:
    """Checks of conversations, and of outputs that the model's length cuts off."""

    turn_order: CheckConfig = _check_that(set_aside=True)
    truncated_output: CheckConfig = _check_that(threshold=0.1)

    def __post_init__(self) -> None:
        _check_checks("conversations", self)


@dataclass(kw_only=True)
class DriftChecksConfig:
    """Differences from the previous session, each a distance between 0 (alike) and 1 (nothing in common)."""

    length: CheckConfig = _check_that(threshold=0.15)
    vocabulary: CheckConfig = _check_that(threshold=0.25)
    embedding: CheckConfig = _check_that(threshold=0.3)

    def __post_init__(self) -> None:
        _check_checks("drift", self)


@dataclass(kw_only=True)
class ValidationConfig:
    """Which rows are set aside, what is reported, and what stops the run.

    `language` is an ISO 639-1 code, or `auto`: that of most rows. Checks that need the model's vectors (outliers,
    mislabelled rows, drift) look at `judged_rows` rows at most, drawn from all.
    """

    min_characters: int = 1
    max_characters: int = 100_000
    max_rejected_share: float = 0.5
    language: str = "auto"
    judged_rows: int = 5_000
    rows: RowChecksConfig = field(default_factory=RowChecksConfig)
    labels: LabelChecksConfig = field(default_factory=LabelChecksConfig)
    vectors: VectorChecksConfig = field(default_factory=VectorChecksConfig)
    conversations: ConversationChecksConfig = field(default_factory=ConversationChecksConfig)
    drift: DriftChecksConfig = field(default_factory=DriftChecksConfig)

    def __post_init__(self) -> None:
        _check(self.min_characters >= 1, "validation.min_characters", "at least 1", self.min_characters)
        _check(
            self.max_characters >= self.min_characters,
            "validation.max_characters",
            f"at least min_characters={self.min_characters}",
            self.max_characters,
        )
        _check_share("validation.max_rejected_share", self.max_rejected_share)
        _check(
            self.language == "auto" or re.fullmatch("[a-z]{2,3}", self.language) is not None,
            "validation.language",
            "auto or a code of ISO 639 such as en",
            self.language,
        )
        _check(self.judged_rows >= 0, "validation.judged_rows", "at least 0 (0: none)", self.judged_rows)


@dataclass(kw_only=True)
class PrivacyConfig:
    """Which personal data and secrets are replaced by placeholders such as `[EMAIL]`, and whether at all."""

    enabled: bool = True
    email: bool = True
    phone: bool = True
    card: bool = True
    iban: bool = True
    ip_address: bool = True
    national_id: bool = True
    secret: bool = True


@dataclass(kw_only=True)
class CleaningConfig:
    """How texts are repaired; each option can be turned off.

    `near_duplicate_similarity` is the Jaccard similarity from which of two rows only the older one stays; 0 keeps both.
    `length` says what becomes of texts with more tokens than the model reads: `keep` (the model cuts them),
    `truncate` (at the last sentence that fits) or `drop`.
    """

    fix_encoding: bool = True
    normalize_unicode: bool = True
    normalize_whitespace: bool = True
    strip_markup: bool = True
    drop_duplicates: bool = True
    near_duplicate_similarity: float = 0.8
    length: str = "keep"
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)

    def __post_init__(self) -> None:
        similarity = self.near_duplicate_similarity
        _check(
            similarity == 0.0 or 0.5 <= similarity <= 1.0,
            "cleaning.near_duplicate_similarity",
            "0 (off) or between 0.5 and 1",
            similarity,
        )
        _check_choice("cleaning.length", self.length, ("keep", "truncate", "drop"))


@dataclass(kw_only=True)
class SplitConfig:
    """Shares of the rows held out, and what counts as a twin.

    A row's side depends on its content (and group) and on `salt` alone, never on the seed: a row that the root model
    was trained on in an earlier run doesn't become a test row of the next, unless a new row joins two clusters or a
    share is raised. With `method: time` the newest clusters are the test split and those before them the validation
    split; `auto` takes it where the oldest row has a timestamp. `stratify` brings every label of four clusters or more
    to every side.
    """

    validation_share: float = 0.15
    test_share: float = 0.15
    near_duplicate_similarity: float = 0.8
    method: str = "auto"
    stratify: bool = True
    salt: str = "tunetrail"

    def __post_init__(self) -> None:
        for name in ("validation_share", "test_share"):
            value = getattr(self, name)
            _check(0.0 < value < 1.0, f"split.{name}", "between 0 and 1, both excluded", value)
        held_out = self.validation_share + self.test_share
        _check(held_out < 1.0, "split.validation_share + split.test_share", "below 1", held_out)
        _check_share("split.near_duplicate_similarity", self.near_duplicate_similarity)
        _check_choice("split.method", self.method, ("auto", "content", "time"))


@dataclass(kw_only=True)
class PreparationConfig:
    """How the rows flow: in chunks of about `chunk_rows`, on `workers` processes (0: one per core), or on Ray Data.

    Each chunk's result is kept under `cache_dir` (None: the user's cache folder), keyed by its content and all that it
    depends on, so that a sweep prepares once and one new row rebuilds one chunk; the longest unused ones go when
    `cache_gigabytes` are exceeded (0: no cache).
    """

    chunk_rows: int = 10_000
    workers: int = 0
    engine: str = "local"
    cache_dir: str | None = None
    cache_gigabytes: float = 5.0

    def __post_init__(self) -> None:
        _check(self.chunk_rows >= 1, "preparation.chunk_rows", "at least 1", self.chunk_rows)
        _check(self.workers >= 0, "preparation.workers", "at least 0 (0: one per core)", self.workers)
        _check_choice("preparation.engine", self.engine, ("local", "ray"))
        _check(
            math.isfinite(self.cache_gigabytes) and self.cache_gigabytes >= 0.0,
            "preparation.cache_gigabytes",
            "at least 0 (0: no cache)",
            self.cache_gigabytes,
        )


@dataclass(kw_only=True)
class AugmentationConfig:
    """Extra rows made from rows of the train side, by any of `AUGMENTATION_METHODS`; none are made without a method.

    Each method varies `share` of the rows. `rate` is the share of a text's words that the word methods change.
    `lexicon` is a file of synonyms or a WordNet folder (None: the installed WordNet); `translation_models` are two
    seq2seq models, there and back. `generator` is the language model that writes queries and paraphrases: `root`, else
    `base` where there is no root yet, or a model's name; it tries `generations_per_row` times per row, and what the
    embedding model doesn't find again among its first `round_trip_rank` results is dropped.
    """

    methods: list[str] = field(default_factory=list)
    share: float = 0.2
    rate: float = 0.1
    lexicon: str | None = None
    translation_models: list[str] = field(default_factory=list)
    generator: str = "root"
    generations_per_row: int = 1
    max_new_tokens: int = 48
    temperature: float = 0.5
    round_trip_rank: int = 1

    def __post_init__(self) -> None:
        for method in self.methods:
            _check_choice("augmentation.methods", method, AUGMENTATION_METHODS)
        _check(len(set(self.methods)) == len(self.methods), "augmentation.methods", "all different", self.methods)
        _check_share("augmentation.share", self.share)
        _check(0.0 < self.rate < 1.0, "augmentation.rate", "between 0 and 1, both excluded", self.rate)
        _check(
            len(self.translation_models) in (0, 2),
            "augmentation.translation_models",
            "two models, there and back,",
            self.translation_models,
        )
        _check(bool(self.generator), "augmentation.generator", "root, base or a model's name", self.generator)
        for name in ("generations_per_row", "max_new_tokens", "round_trip_rank"):
            _check(getattr(self, name) >= 1, f"augmentation.{name}", "at least 1", getattr(self, name))
        _check(0.0 <= self.temperature <= 2.0, "augmentation.temperature", "between 0 and 2", self.temperature)


@dataclass(kw_only=True)
class HardNegativesConfig:
    """Hard negatives for pairs that have none, mined with the model itself among the positives of the train side.

    A negative is one of the `candidates` passages nearest to the anchor, the `skip_top` nearest left out, whose
    similarity is at most that of the positive less the share `margin`: what is nearer may be a true answer. With
    `replace` rows that have a negative get another one. With `remine_every_epochs` above 0 the negatives are mined
    again after so many epochs each, with the weights that the model has by then.
    """

    enabled: bool = False
    candidates: int = 50
    skip_top: int = 0
    margin: float = 0.05
    sampling: str = "hardest"
    replace: bool = False
    remine_every_epochs: int = 0

    def __post_init__(self) -> None:
        name = "feature_engineering.hard_negatives"
        _check(self.candidates >= 1, f"{name}.candidates", "at least 1", self.candidates)
        _check(
            0 <= self.skip_top < self.candidates,
            f"{name}.skip_top",
            f"at least 0 and below candidates={self.candidates}",
            self.skip_top,
        )
        _check_share(f"{name}.margin", self.margin)
        _check_choice(f"{name}.sampling", self.sampling, ("hardest", "random"))
        _check(
            self.remine_every_epochs >= 0,
            f"{name}.remine_every_epochs",
            "at least 0 (0: only before the training)",
            self.remine_every_epochs,
        )


@dataclass(kw_only=True)
class FeatureEngineeringConfig:
    """Text statistics; from `warn_truncated_share` of rows cut by the model's length on, a warning is given."""

    warn_truncated_share: float = 0.1
    hard_negatives: HardNegativesConfig = field(default_factory=HardNegativesConfig)

    def __post_init__(self) -> None:
        _check_share("feature_engineering.warn_truncated_share", self.warn_truncated_share)


@dataclass(kw_only=True)
class CrossValidationConfig:
    """How many folds are trained (0: off), and how long each: `budget` is the share of a full training's steps."""

    n_splits: int = 5
    budget: float = 0.2

    def __post_init__(self) -> None:
        _check(
            self.n_splits == 0 or self.n_splits >= 2,
            "cross_validation.n_splits",
            "0 (off) or at least 2",
            self.n_splits,
        )
        _check(0.0 < self.budget <= 1.0, "cross_validation.budget", "above 0 and at most 1", self.budget)


@dataclass(kw_only=True)
class TrainingConfig:
    """Hyper-parameters of one training; the first nine are the specification's `training_config`."""

    batch_size: int = 32
    learning_rate: float = 2e-5
    num_epochs: int = 3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    use_mixed_precision: bool = True
    max_grad_norm: float = 1.0
    early_stopping_patience: int = 3
    logging_steps: int = 10
    schedule: str = "linear"
    max_steps: int = -1
    validations_per_epoch: int = 1

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_epochs", "logging_steps", "validations_per_epoch"):
            _check(getattr(self, name) >= 1, f"training.{name}", "at least 1", getattr(self, name))
        for name in ("warmup_steps", "early_stopping_patience"):
            _check(getattr(self, name) >= 0, f"training.{name}", "at least 0", getattr(self, name))
        _check(
            math.isfinite(self.learning_rate) and 0.0 < self.learning_rate <= 1.0,
            "training.learning_rate",
            "above 0 and at most 1",
            self.learning_rate,
        )
        _check(0.0 <= self.weight_decay <= 1.0, "training.weight_decay", "between 0 and 1", self.weight_decay)
        _check(self.max_grad_norm >= 0.0, "training.max_grad_norm", "at least 0 (0: off)", self.max_grad_norm)
        _check_choice("training.schedule", self.schedule, ("linear", "cosine", "constant"))
        _check(
            self.max_steps == -1 or self.max_steps >= 1, "training.max_steps", "-1 (off) or at least 1", self.max_steps
        )


def _check_start(name: str, value: str) -> None:
    _check_choice(f"{name}.start_from", value, ("root", "base"))


@dataclass(kw_only=True)
class EmbeddingConfig:
    """The embedding model, its loss and its training.

    `shape` chooses the samples when a session holds several shapes. `start_from: root` goes on from the root version if
    it was made from the same base model. With `mini_batch_size` above 0, contrastive batches go through the model in
    pieces of that size (the cached loss).

    `query_prompt` goes before anchors and before the texts of all shapes but pairs, `document_prompt` before positives
    and negatives; their tokens count towards `max_length`, and the trained model keeps them under the names `query` and
    `document`. An empty one is none, even where the base model comes with its own.
    """

    model: str = "minilm"
    max_length: int = 128
    query_prompt: str = ""
    document_prompt: str = ""
    shape: str | None = None
    loss: str = "auto"
    mini_batch_size: int = 0
    start_from: str = "root"
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        _check(self.max_length >= 4, "embedding.max_length", "at least 4 tokens", self.max_length)
        for name in ("query_prompt", "document_prompt"):
            prompt = getattr(self, name)
            _check(
                isinstance(prompt, str) and prompt.encode(errors="ignore").decode() == prompt,
                f"embedding.{name}",
                "a text of valid Unicode",
                prompt,
            )
        if self.shape is not None:
            _check_choice("embedding.shape", self.shape, tuple(EMBEDDING_LOSSES))
        every_loss = tuple(loss for losses in EMBEDDING_LOSSES.values() for loss in losses)
        _check_choice("embedding.loss", self.loss, ("auto", *every_loss))
        if self.shape is not None and self.loss != "auto":
            _check_choice(f"embedding.loss for {self.shape} samples", self.loss, EMBEDDING_LOSSES[self.shape])
        _check(self.mini_batch_size >= 0, "embedding.mini_batch_size", "at least 0 (0: off)", self.mini_batch_size)
        _check_start("embedding", self.start_from)


@dataclass(kw_only=True)
class AdapterConfig:
    """What is trained of a language model: all (`none`) or low-rank adapters (`lora`, PEFT), merged when registered."""

    kind: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05

    def __post_init__(self) -> None:
        _check_choice("llm.adapter.kind", self.kind, ("lora", "none"))
        _check(self.rank >= 1, "llm.adapter.rank", "at least 1", self.rank)
        _check(self.alpha >= 1, "llm.adapter.alpha", "at least 1", self.alpha)
        _check(0.0 <= self.dropout < 1.0, "llm.adapter.dropout", "at least 0 and below 1", self.dropout)


@dataclass(kw_only=True)
class LanguageModelConfig:
    """The language model, its adapter and its training."""

    model: str = "smollm2-135m"
    max_length: int = 512
    start_from: str = "root"
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(batch_size=8, learning_rate=2e-4))

    def __post_init__(self) -> None:
        _check(self.max_length >= 8, "llm.max_length", "at least 8 tokens", self.max_length)
        _check_start("llm", self.start_from)


@dataclass(kw_only=True)
class EvaluationConfig:
    """How candidates are scored and compared with root: a paired bootstrap of `bootstrap_samples` draws."""

    batch_size: int = 32
    bootstrap_samples: int = 2000
    confidence: float = 0.95

    def __post_init__(self) -> None:
        _check(self.batch_size >= 1, "evaluation.batch_size", "at least 1", self.batch_size)
        _check(self.bootstrap_samples >= 100, "evaluation.bootstrap_samples", "at least 100", self.bootstrap_samples)
        _check(0.5 <= self.confidence < 1.0, "evaluation.confidence", "at least 0.5 and below 1", self.confidence)


@dataclass(kw_only=True)
class GateConfig:
    """When root moves: the lower bound of the improvement's interval must be above `minimum_improvement`.

    With `require_interval: false` the point estimate is enough.
    """

    minimum_improvement: float = 0.0
    require_interval: bool = True

    def __post_init__(self) -> None:
        _check(math.isfinite(self.minimum_improvement), "gate.minimum_improvement", "finite", self.minimum_improvement)


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
        _check(0 <= self.seed < 2**32, "seed", "between 0 and 2**32 - 1", self.seed)

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
            _check(isinstance(given, Mapping), f"training_config[{model_type!r}]", "a dict", given)
            _check_keys(f"training_config[{model_type!r}]", given, tuple(_TRAINING_KEYS))
            values = {
                key: _typed(f"training_config[{model_type!r}][{key!r}]", value, _TRAINING_KEYS[key])
                for key, value in given.items()
            }
            changed = _replaced(changed, (model_type, "training"), values)
        return changed


_PIPELINE_KEYS: dict[str, tuple[tuple[str, ...], str, type]] = {
    "output_dir": ((), "output_dir", str),
    "n_splits": (("cross_validation",), "n_splits", int),
    "random_state": ((), "seed", int),
    "models_root_dir": ((), "model_dir", str),
}
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
    _check(right, name, f"a value of type {kind.__name__}", value)
    return kind(value)


def _check_keys(name: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise ConfigError(f"{name} has no key {key!r}.{hint} Known keys: {', '.join(known)}.")


def requested_model_types(model_type: str) -> tuple[str, ...]:
    """Return the model types behind `embedding`, `llm` or `all`; raises `ConfigError` for anything else."""
    _check_choice("model_type", model_type, (*MODEL_TYPES, ALL))
    return MODEL_TYPES if model_type == ALL else (model_type,)
