"""Validation: which rows are unfit, what is reported, and what stops a run."""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any

from tunetrail.config.checks import check, check_choice, check_share
from tunetrail.errors import ConfigError


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
        chosen = getattr(section, each.name)
        if not isinstance(chosen, CheckConfig):
            continue
        name = f"validation.{group}.{each.name}"
        check_choice(f"{name}.severity", chosen.severity, ("error", "warning", "off"))
        check(
            math.isfinite(chosen.threshold) and chosen.threshold >= 0.0,
            f"{name}.threshold",
            "at least 0",
            chosen.threshold,
        )
        if (
            name in ("validation.labels.imbalance", "validation.drift." + each.name)
            and chosen.set_aside
        ):
            raise ConfigError(
                f"{name}.set_aside must be false, since the check is about the whole session, got True."
            )
        if chosen.severity == "off" and chosen.set_aside:
            raise ConfigError(
                f"{name}.set_aside must be false where its severity is off, got True."
            )
        if each.name in unusable:
            check(
                chosen.severity != "off" and chosen.set_aside,
                name,
                "error or warning with set_aside, since such rows can't be learnt from",
                f"severity={chosen.severity}, set_aside={chosen.set_aside}",
            )


def _check_that(
    severity: str = "warning", threshold: float = 0.0, *, set_aside: bool = False
) -> Any:
    return field(
        default_factory=lambda: CheckConfig(
            severity=severity, threshold=threshold, set_aside=set_aside
        ),
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
            check(
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
            check(
                self.dimensions >= 1, "validation.vectors.dimensions", "at least 1", self.dimensions
            )


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
        check(
            self.min_characters >= 1, "validation.min_characters", "at least 1", self.min_characters
        )
        check(
            self.max_characters >= self.min_characters,
            "validation.max_characters",
            f"at least min_characters={self.min_characters}",
            self.max_characters,
        )
        check_share("validation.max_rejected_share", self.max_rejected_share)
        check(
            self.language == "auto" or re.fullmatch("[a-z]{2,3}", self.language) is not None,
            "validation.language",
            "auto or a code of ISO 639 such as en",
            self.language,
        )
        check(
            self.judged_rows >= 0,
            "validation.judged_rows",
            "at least 0 (0: none)",
            self.judged_rows,
        )
