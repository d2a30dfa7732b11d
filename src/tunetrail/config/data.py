"""Settings of the preparation: how rows are read, cleaned, split, augmented and given features."""

from dataclasses import dataclass, field
from typing import Any

from tunetrail.config.checks import (
    SHARE,
    Rule,
    at_least,
    check,
    check_different,
    check_settings,
    choices_setting,
    one_of,
    options_setting,
    setting,
)
from tunetrail.config.typed_options import check_names, options_of
from tunetrail.extensions import AUGMENTATION as INSTALLED_METHODS

AUGMENTATION_METHODS = (
    "word_dropout",
    "word_swap",
    "typo",
    "synonym",
    "back_translation",
    "generated_query",
    "paraphrase",
)
"""The ways to make a row from another one."""

# For shares of which both ends are senseless: an empty side, or a text that isn't changed.
_OPEN_SHARE = Rule("between 0 and 1, both excluded", lambda share: 0.0 < share < 1.0)


@dataclass(kw_only=True)
class PreparationConfig:
    """How rows flow through the preparation, and what is cached of it."""

    chunk_rows: int = setting(10_000, at_least(1))
    """Rows that a process holds in memory at a time. Each chunk is cached by its content,
    so that a new row only rebuilds its own chunk."""

    workers: int = setting(0, at_least(0, " (0: one per core)"))
    """Processes that work on chunks; 0 starts one per core."""

    # Ray is an optional dependency, so that the default has to work without it.
    engine: str = setting("local", one_of("local", "ray"))
    """`local` runs the chunks on processes of this machine, `ray` on a Ray cluster (`pip
    install 'tunetrail[ray]'`; `RAY_ADDRESS` names it, otherwise one is started here). All
    machines of the cluster must see `output_dir` and `cache_dir` under the same path."""

    cache_dir: str | None = None
    """Folder in which prepared rows, tokens, vectors and searched batch sizes and
    learning rates are kept from run to run; null is `$TUNETRAIL_CACHE` or else the user's
    cache folder."""

    cache_gigabytes: float = setting(5.0, at_least(0, " (0: no cache)"))
    """Size of this cache in gigabytes, above which the results that were unused for longest
    are deleted; 0 turns the cache off."""

    vector_precision: str = setting("float32", one_of("float32", "int8"))
    """Precision of the vectors by which rows are checked (outliers, wrong labels, drift):
    `int8` computes the vectors of a BERT model on the CPU with products of 8-bit integers,
    which takes 70 % of the time where the CPU has AVX-512 VNNI, and misses some outliers. Mining,
    training and scores always take float32."""

    def __post_init__(self) -> None:
        check_settings("preparation", self)


@dataclass(kw_only=True)
class PrivacyConfig:
    """Which personal data and secrets are replaced by placeholders."""

    enabled: bool = True
    """Whether anything is replaced at all; false keeps every text as it is."""

    email: bool = True
    """Replace e-mail addresses by `[EMAIL]`."""

    phone: bool = True
    """Replace telephone numbers by `[PHONE]`."""

    card: bool = True
    """Replace payment card numbers with a valid checksum by `[CARD]`."""

    iban: bool = True
    """Replace bank account numbers (IBAN) with a valid checksum by `[IBAN]`."""

    ip_address: bool = True
    """Replace IP addresses by `[IP_ADDRESS]`."""

    national_id: bool = True
    """Replace national identification numbers by `[NATIONAL_ID]`."""

    secret: bool = True
    """Replace passwords, API keys, tokens and private keys by `[SECRET]`."""


@dataclass(kw_only=True)
class CleaningConfig:
    """How texts are repaired, and which repeated or overlong rows are removed."""

    fix_encoding: bool = True
    """Repair text that was decoded with the wrong encoding (`cafÃ©` becomes `café`)."""

    normalize_unicode: bool = True
    """Remove control characters and bring Unicode to the composed form NFC, so that
    characters that look the same have the same code points."""

    normalize_whitespace: bool = True
    """Use `\\n` for line breaks and remove empty lines around a text and, in prose, blanks at
    the ends of lines, except for Markdown's hard line break; indentation and blanks within a
    line stay, so that source code keeps its form."""

    strip_markup: bool = True
    """Remove HTML from prose; code, prompt delimiters and Markdown stay, and all markup of
    rows that speak of HTML. Set it to false if other answers are meant to be raw HTML
    pages."""

    drop_duplicates: bool = True
    """Keep only the oldest of rows that are equal."""

    near_duplicate_similarity: float = setting(
        0.8,
        Rule("0 (off) or between 0.5 and 1", lambda value: value == 0.0 or 0.5 <= value <= 1.0),
    )
    """Jaccard similarity of whole rows from which only the older of two rows is kept; 0
    keeps both."""

    max_share_dropped: float = setting(0.5, SHARE)
    """Share of the rows that cleaning may set aside: more is an error, and more than a fifth
    of it (0.1) a warning. Both show two rows as an example and name the setting that did
    it."""

    length: str = setting("keep", one_of("keep", "truncate", "drop"))
    """What happens to rows with more tokens than the model reads: `keep` leaves the cut to
    the model, `truncate` cuts after the last sentence that fits, `drop` sets the row
    aside."""

    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    """Replacement of personal data and secrets."""

    def __post_init__(self) -> None:
        check_settings("cleaning", self)


@dataclass(kw_only=True)
class SplitConfig:
    """Which rows are held out for validation and test, and which rows count as near-duplicates."""

    validation_share: float = setting(0.15, _OPEN_SHARE)
    """Share of the rows held out for validation: early stopping and the choice of the
    checkpoint."""

    test_share: float = setting(0.15, _OPEN_SHARE)
    """Share of the rows held out for the comparison with root; no training sees them."""

    near_duplicate_similarity: float = setting(0.8, SHARE)
    """Jaccard similarity from which two rows are near-duplicates, which always go into the same
    split. 0: only rows with equal texts, texts that differ in one word, or a
    common group are."""

    method: str = setting("auto", one_of("auto", "content", "time"))
    """`content` assigns rows to splits by a hash of their content, so that a row keeps its
    split in later runs, whatever the seed; `time` holds out the newest rows; `auto` is
    `time` if the oldest row has a timestamp, else `content`."""

    stratify: bool = True
    """Learn every label, and bring it to the held-out splits as far as their shares have room for
    it: the first cluster of near-duplicates of a label is in the train split."""

    salt: str = "tunetrail"
    """Text that goes into the hash of `content`: another salt is another split. Change it
    only before the first training, since root may have learned from rows that would become
    test rows."""

    def __post_init__(self) -> None:
        check_settings("split", self)
        # Each share may be valid and yet nothing be left to train on.
        held_out = self.validation_share + self.test_share
        check(held_out < 1.0, "split.validation_share + split.test_share", "below 1", held_out)


@dataclass(kw_only=True)
class AugmentationConfig:
    """How extra rows are made from rows of the train split; without a method, none are."""

    methods: list[str] = choices_setting(*AUGMENTATION_METHODS, point=INSTALLED_METHODS)
    """Ways to make a row from another: `word_dropout`, `word_swap`, `typo`, `synonym`,
    `back_translation`, and by a language model `generated_query` (Promptagator, Dai et al.
    2022, https://arxiv.org/abs/2209.11755) or `paraphrase`. Cross-validation also trains
    without the added rows and says if they make the score worse."""

    extensions: dict[str, dict[str, Any]] = options_setting(INSTALLED_METHODS)
    """Options of methods that installed packages add, by method and option, as in
    `augmentation.extensions.METHOD.OPTION=VALUE`."""

    share: float = setting(0.2, SHARE)
    """Share of the train rows that each method makes a new row from."""

    rate: float = setting(0.1, _OPEN_SHARE)
    """Share of a text's words that `word_dropout`, `word_swap`, `typo` and `synonym`
    change, at least one."""

    lexicon: str | None = None
    """Synonyms for `synonym`: a file with lines `word<TAB>synonym, synonym` or a WordNet
    folder; null is the installed WordNet (Debian: `apt install wordnet-base`)."""

    translation_models: list[str] = field(default_factory=list)
    """Two sequence-to-sequence models for `back_translation`, there and back: folders or
    hub ids with safetensors, such as two of `Helsinki-NLP/opus-mt`."""

    # Which names are models is only known to the catalog, when the model is loaded.
    generator: str = setting("root", Rule("root, base or a model's name", bool))
    """Language model that writes queries and paraphrases: `root` is the current root
    version, or the model of `llm.model` before the first promotion; `base` is always the
    latter; otherwise a model's name."""

    generations_per_row: int = setting(1, at_least(1))
    """Texts that the generator writes for each row."""

    max_new_tokens: int = setting(48, at_least(1))
    """Length limit of a generated text in tokens; a text that is not finished by then is
    dropped."""

    temperature: float = setting(0.5, Rule("between 0 and 2", lambda value: 0.0 <= value <= 2.0))
    """Sampling temperature of the generator; 0 always takes the likeliest token."""

    round_trip_rank: int = setting(1, at_least(1))
    """Round-trip filter: a generated text is dropped unless the embedding model finds the
    original among its first `round_trip_rank` results."""

    def __post_init__(self) -> None:
        check_settings("augmentation", self)
        check_different("augmentation.methods", self.methods)
        self._check_extensions()

        models = self.translation_models
        # No models are fine as long as back_translation isn't among the methods.
        name, rule = "augmentation.translation_models", "two models, there and back,"
        check(len(models) in (0, 2), name, rule, models)

    def _check_extensions(self) -> None:
        """Check the options of installed packages' methods, and that these are applied."""
        key, used = "augmentation.extensions", self.methods
        check_names(key, self.extensions, INSTALLED_METHODS, "augmentation.methods", used)
        for name in used:
            if name in INSTALLED_METHODS.names():
                options_of(INSTALLED_METHODS.load(name), key, self.extensions)


@dataclass(kw_only=True)
class HardNegativesConfig:
    """How hard negatives are mined, with the model itself, among the train split's positives."""

    enabled: bool = False
    """Mine a hard negative for each pair that has none."""

    candidates: int = setting(50, at_least(1))
    """Nearest passages of an anchor among which its negative is chosen."""

    # Its rule depends on `candidates`: see `__post_init__`.
    skip_top: int = 0
    """Nearest passages that are skipped, since they may be unlabelled answers; below
    `candidates`."""

    margin: float = setting(0.05, SHARE)
    """Share by which a negative must be less similar to the anchor than the positive is;
    with 0.05, at most 95 % as similar. What is nearer may be a true answer (TopK-PercPos of
    NV-Retriever, Moreira et al. 2024, https://arxiv.org/abs/2407.15831)."""

    sampling: str = setting("hardest", one_of("hardest", "random"))
    """Which of the allowed candidates becomes the negative: the most similar one, or one at
    random."""

    replace: bool = False
    """Mine a negative also for rows that already have one, and replace it."""

    remine_every_epochs: int = setting(0, at_least(0, " (0: only before the training)"))
    """Epochs after which the negatives are mined again with the current weights (ANCE,
    Xiong et al. 2020, https://arxiv.org/abs/2007.00808); 0 mines once, before the
    training."""

    def __post_init__(self) -> None:
        section = "feature_engineering.hard_negatives"
        check_settings(section, self)
        # At least one candidate must be left to become the negative.
        allowed = 0 <= self.skip_top < self.candidates
        rule = f"at least 0 and below candidates={self.candidates}"
        check(allowed, f"{section}.skip_top", rule, self.skip_top)


@dataclass(kw_only=True)
class FeatureEngineeringConfig:
    """Lengths of the prepared texts, and what is mined for the training."""

    warn_truncated_share: float = setting(0.1, SHARE)
    """Share of rows longer than the model reads from which a warning is given."""

    hard_negatives: HardNegativesConfig = field(default_factory=HardNegativesConfig)
    """Mining of hard negatives for pairs."""

    def __post_init__(self) -> None:
        check_settings("feature_engineering", self)
