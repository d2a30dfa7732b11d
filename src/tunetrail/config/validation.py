"""Settings of the validation: which rows are set aside, what is reported, and what stops a run."""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from tunetrail.config.checks import (
    SHARE,
    Rule,
    at_least,
    check,
    check_identifier,
    check_settings,
    one_of,
    setting,
)
from tunetrail.errors import ConfigError

# Checks of a whole session: they name no rows that could be set aside.
_SESSION_CHECKS = ("labels.imbalance", "drift.length", "drift.vocabulary", "drift.embedding")


@dataclass(kw_only=True)
class CheckConfig:
    """What one check of the validation does, as in `validation.rows.outlier.severity=off`."""

    severity: str = setting("warning", one_of("error", "warning", "off"))
    """`error` stops the run if the check has a finding, `warning` reports the finding,
    `off` skips the check."""

    threshold: float = setting(0.0, at_least(0))
    """Measure above which the check has a finding: the share of the rows concerned, except
    for `labels.imbalance` (a ratio) and `drift` (a distance between 0 and 1)."""

    set_aside: bool = False
    """Set the rows concerned aside, whether or not they are enough for a finding."""


def _check(severity: str = "warning", threshold: float = 0.0, *, set_aside: bool = False) -> Any:
    """Return a field whose default is a check with these settings."""
    # Each section needs a check of its own: a shared default would be changed for all.
    return field(
        default_factory=lambda: CheckConfig(
            severity=severity, threshold=threshold, set_aside=set_aside
        )
    )


def _check_group(group: str, section: Any, *, unusable: tuple[str, ...] = ()) -> None:
    """Raise `ConfigError` for a check of one group that is set in an impossible way.

    Args:
        group: Name of the group in `validation`.
        section: The group, a dataclass with `CheckConfig` fields.
        unusable: Checks of rows that nothing can be learned from: these rows have to be set aside.
    """
    for check_field in dataclasses.fields(section):
        chosen = getattr(section, check_field.name)
        # Groups also hold settings that several checks use, such as labels.known.
        if not isinstance(chosen, CheckConfig):
            continue

        key = f"validation.{group}.{check_field.name}"
        check_settings(key, chosen)

        if chosen.set_aside and f"{group}.{check_field.name}" in _SESSION_CHECKS:
            raise ConfigError(
                f"{key}.set_aside must be false, since the check is about the whole session, "
                "got True."
            )
        # A check that is skipped finds no rows to set aside.
        if chosen.set_aside and chosen.severity == "off":
            raise ConfigError(f"{key}.set_aside must be false if its severity is off, got True.")

        if check_field.name in unusable:
            rule = "error or warning with set_aside, since nothing can be learned from such rows"
            value = f"severity={chosen.severity}, set_aside={chosen.set_aside}"
            check(chosen.severity != "off" and chosen.set_aside, key, rule, value)


@dataclass(kw_only=True)
class RowChecksConfig:
    """Checks of the content of each row."""

    wrong_type: CheckConfig = _check("error", 0.5, set_aside=True)
    """Values of the wrong type, such as a number in place of a text, or invalid Unicode."""

    missing: CheckConfig = _check("error", 0.5, set_aside=True)
    """Required values that are missing."""

    empty: CheckConfig = _check("error", 0.5, set_aside=True)
    """Texts without a visible character."""

    too_short: CheckConfig = _check(set_aside=True)
    """Texts with fewer characters than `validation.min_characters`."""

    too_long: CheckConfig = _check(set_aside=True)
    """Texts with more characters than `validation.max_characters`."""

    too_many_tokens: CheckConfig = _check(threshold=0.1)
    """Rows with more tokens than the model reads; `cleaning.length` says what happens to
    them."""

    encoding: CheckConfig = _check()
    """Texts with damaged characters; cleaning repairs the ones that can be repaired."""

    shrunk: CheckConfig = _check(threshold=0.05)
    """Rows of which cleaning takes half of a text or more, such as the markup of pages: see
    `cleaning.strip_markup` and the other repairs."""

    language: CheckConfig = _check()
    """Rows in a language other than `validation.language`."""

    constant: CheckConfig = _check(set_aside=True)
    """Rows with two equal texts, or with one word over and over."""

    contradictory: CheckConfig = _check()
    """Rows with the same input and another output, label, score or preference."""

    duplicate: CheckConfig = _check(threshold=0.05)
    """Rows that equal an earlier one; cleaning keeps the earlier one."""

    outlier: CheckConfig = _check()
    """Rows unlike all other rows, by the vectors of the model."""

    def __post_init__(self) -> None:
        # Such rows have no text at all; the other findings are a matter of taste.
        _check_group("rows", self, unusable=("wrong_type", "missing", "empty"))


@dataclass(kw_only=True)
class LabelChecksConfig:
    """Checks of scores and labels, and the values that are known to be right."""

    score_range: CheckConfig = _check(set_aside=True)
    """Scores outside `minimum_score` to `maximum_score`."""

    unknown_label: CheckConfig = _check()
    """Labels that are not in `known` or, without it, rare labels that look like a misspelt
    common one."""

    similar: CheckConfig = _check()
    """Labels that differ from a commoner one only in case, in what separates the words or in
    a letter or two; the measure is their number."""

    imbalance: CheckConfig = _check(threshold=20.0)
    """Imbalance of the labels; the measure is the rows of the most common label per row of
    the rarest."""

    mislabelled: CheckConfig = _check()
    """Rows whose label doesn't fit their text, by the vectors of the model (confident
    learning, Northcutt et al. 2021, https://arxiv.org/abs/1911.00068)."""

    minimum_score: float | None = None
    """Lowest valid score; null, together with `maximum_score`, is the usual scale (such as
    0 to 1 or 1 to 5) that nearly all scores lie on."""

    maximum_score: float | None = None
    """Highest valid score; see `minimum_score`."""

    known: list[str] | None = None
    """All labels that exist; null if that isn't known."""

    def __post_init__(self) -> None:
        _check_group("labels", self)
        # Either bound may be set alone; only two can contradict each other.
        if self.minimum_score is not None and self.maximum_score is not None:
            is_ordered = self.minimum_score < self.maximum_score
            rule = f"below maximum_score={self.maximum_score}"
            check(is_ordered, "validation.labels.minimum_score", rule, self.minimum_score)


@dataclass(kw_only=True)
class VectorChecksConfig:
    """Checks of target vectors."""

    not_finite: CheckConfig = _check("error", 0.5, set_aside=True)
    """Vectors with values that are infinite or not a number."""

    zero_norm: CheckConfig = _check(set_aside=True)
    """Vectors of zeros only, which have no direction."""

    dimension: CheckConfig = _check("error", 0.5, set_aside=True)
    """Vectors of a size other than `dimensions`."""

    dimensions: int | None = setting(None, at_least(1))
    """Size that target vectors must have; null is the size of most."""

    def __post_init__(self) -> None:
        # One NaN in a target spreads to all weights with the first step.
        _check_group("vectors", self, unusable=("not_finite",))
        check_settings("validation.vectors", self)


@dataclass(kw_only=True)
class ConversationChecksConfig:
    """Checks of conversations and outputs."""

    turn_order: CheckConfig = _check(set_aside=True)
    """Conversations with turns out of order."""

    unlearnable: CheckConfig = _check(set_aside=True)
    """Rows that the model's chat template refuses, or of which it drops something, such as
    tools; they are always set aside. More than half of the rows are an error, unless
    `threshold` allows them."""

    truncated_output: CheckConfig = _check(threshold=0.1)
    """Outputs that the maximum length of the model cuts off."""

    def __post_init__(self) -> None:
        _check_group("conversations", self)


@dataclass(kw_only=True)
class DriftChecksConfig:
    """Distances from another session, between 0 (no difference) and 1 (nothing in common)."""

    length: CheckConfig = _check(threshold=0.15)
    """Distance of the text lengths: the Kolmogorov-Smirnov statistic, less what chance
    would give."""

    vocabulary: CheckConfig = _check(threshold=0.25)
    """Distance of the word frequencies: the Jensen-Shannon distance, less what chance would
    give."""

    embedding: CheckConfig = _check(threshold=0.3)
    """Distance of the texts' vectors: how well a classifier tells the two sessions
    apart."""

    against: str | None = None
    """Session that the distances are measured from; null for the last one that was made
    before this session."""

    def __post_init__(self) -> None:
        _check_group("drift", self)
        if self.against is not None:
            check_identifier("validation.drift.against", self.against)


@dataclass(kw_only=True)
class ValidationConfig:
    """Which rows are set aside, what is reported, and what stops the run."""

    min_characters: int = setting(1, at_least(1))
    """Characters that a text must have at least (`rows.too_short`)."""

    # Its rule depends on `min_characters`: see `__post_init__`.
    max_characters: int = 100_000
    """Characters that a text may have at most (`rows.too_long`)."""

    max_rejected_share: float = setting(0.5, SHARE)
    """Share of rows set aside above which the run stops."""

    language: str = setting(
        "auto",
        Rule(
            "auto or a code of ISO 639 such as en",
            # Two letters in ISO 639-1, three in the later parts.
            lambda language: language == "auto" or re.fullmatch("[a-z]{2,3}", language) is not None,
        ),
    )
    """Language of the session as an ISO 639 code such as `en`; `auto` is the language of
    most rows."""

    judged_rows: int = setting(5_000, at_least(0, " (0: none)"))
    """Rows at most, drawn from all, whose vectors are computed for the checks that need the
    model (outliers, mislabelled rows, drift); 0 skips these checks."""

    rows: RowChecksConfig = field(default_factory=RowChecksConfig)
    """Checks of the content of each row."""

    labels: LabelChecksConfig = field(default_factory=LabelChecksConfig)
    """Checks of scores and labels."""

    vectors: VectorChecksConfig = field(default_factory=VectorChecksConfig)
    """Checks of target vectors."""

    conversations: ConversationChecksConfig = field(default_factory=ConversationChecksConfig)
    """Checks of conversations and outputs."""

    drift: DriftChecksConfig = field(default_factory=DriftChecksConfig)
    """Distances from the previous session, or from another one."""

    def __post_init__(self) -> None:
        check_settings("validation", self)
        # In the wrong order, every text would be too short or too long.
        is_ordered = self.max_characters >= self.min_characters
        rule = f"at least min_characters={self.min_characters}"
        check(is_ordered, "validation.max_characters", rule, self.max_characters)
