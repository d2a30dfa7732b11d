"""Cleaning, splitting, augmentation and features: what happens to rows before they are trained on."""

import math
from dataclasses import dataclass, field

from tunetrail.config.checks import check, check_choice, check_share

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
        check(
            similarity == 0.0 or 0.5 <= similarity <= 1.0,
            "cleaning.near_duplicate_similarity",
            "0 (off) or between 0.5 and 1",
            similarity,
        )
        check_choice("cleaning.length", self.length, ("keep", "truncate", "drop"))


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
            check(0.0 < value < 1.0, f"split.{name}", "between 0 and 1, both excluded", value)
        held_out = self.validation_share + self.test_share
        check(held_out < 1.0, "split.validation_share + split.test_share", "below 1", held_out)
        check_share("split.near_duplicate_similarity", self.near_duplicate_similarity)
        check_choice("split.method", self.method, ("auto", "content", "time"))


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
        check(self.chunk_rows >= 1, "preparation.chunk_rows", "at least 1", self.chunk_rows)
        check(
            self.workers >= 0, "preparation.workers", "at least 0 (0: one per core)", self.workers
        )
        check_choice("preparation.engine", self.engine, ("local", "ray"))
        check(
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
            check_choice("augmentation.methods", method, AUGMENTATION_METHODS)
        check(
            len(set(self.methods)) == len(self.methods),
            "augmentation.methods",
            "all different",
            self.methods,
        )
        check_share("augmentation.share", self.share)
        check(
            0.0 < self.rate < 1.0, "augmentation.rate", "between 0 and 1, both excluded", self.rate
        )
        check(
            len(self.translation_models) in (0, 2),
            "augmentation.translation_models",
            "two models, there and back,",
            self.translation_models,
        )
        check(
            bool(self.generator),
            "augmentation.generator",
            "root, base or a model's name",
            self.generator,
        )
        for name in ("generations_per_row", "max_new_tokens", "round_trip_rank"):
            check(
                getattr(self, name) >= 1, f"augmentation.{name}", "at least 1", getattr(self, name)
            )
        check(
            0.0 <= self.temperature <= 2.0,
            "augmentation.temperature",
            "between 0 and 2",
            self.temperature,
        )


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
        check(self.candidates >= 1, f"{name}.candidates", "at least 1", self.candidates)
        check(
            0 <= self.skip_top < self.candidates,
            f"{name}.skip_top",
            f"at least 0 and below candidates={self.candidates}",
            self.skip_top,
        )
        check_share(f"{name}.margin", self.margin)
        check_choice(f"{name}.sampling", self.sampling, ("hardest", "random"))
        check(
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
        check_share("feature_engineering.warn_truncated_share", self.warn_truncated_share)
