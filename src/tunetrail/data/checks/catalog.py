"""The catalog of checks: what each check is about, what it needs, and how it is configured."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from tunetrail.config import CheckConfig, ValidationConfig
from tunetrail.samples import ColumnType

_GROUPS = ("rows", "labels", "vectors", "conversations", "drift")


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the validation.

    Attributes:
        name: `group.name`, as in conf/validation.
        meaning: What the rows concerned have in common, or what the check measures.
        column_type: The type of column that the check looks at; None if it looks at every row.
        is_measure: Whether the check measures the session as a whole instead of counting rows.
    """

    name: str
    meaning: str
    column_type: ColumnType | None = None
    is_measure: bool = False


# In the order of the report.
_CHECKS = (
    Check("rows.wrong_type", "values have the wrong type"),
    Check("rows.missing", "required values are missing"),
    Check("rows.empty", "texts are empty"),
    Check("rows.too_short", "texts are too short"),
    Check("rows.too_long", "texts are too long"),
    Check("rows.too_many_tokens", "rows are longer than the model reads"),
    Check("rows.encoding", "texts have damaged characters"),
    Check("rows.shrunk", "cleaning takes half of a text or more"),
    Check("rows.language", "texts are in a language other than most"),
    Check("rows.constant", "rows repeat themselves and teach nothing"),
    Check(
        "rows.contradictory",
        "rows have the input of another row and a different output, label, score or preference",
    ),
    Check("rows.duplicate", "rows are equal to an earlier one"),
    Check("rows.outlier", "texts are unlike all other rows"),
    Check("labels.score_range", "scores lie outside the scale", ColumnType.NUMBER),
    Check("labels.unknown_label", "labels are unknown or look misspelt", ColumnType.LABEL),
    Check("labels.similar", "labels that look like a commoner one", is_measure=True),
    Check(
        "labels.imbalance",
        "rows of the most common label per row of the rarest",
        is_measure=True,
    ),
    Check("labels.mislabelled", "labels don't fit their texts", ColumnType.LABEL),
    Check(
        "vectors.not_finite", "target vectors hold numbers that are not finite", ColumnType.VECTOR
    ),
    Check("vectors.zero_norm", "target vectors have a norm of zero", ColumnType.VECTOR),
    Check("vectors.dimension", "target vectors have a size other than most", ColumnType.VECTOR),
    Check("conversations.turn_order", "conversations have turns out of order", ColumnType.MESSAGES),
    Check("conversations.truncated_output", "outputs are cut off by the model's length"),
    Check("conversations.unlearnable", "rows have no form in the model's chat template"),
    Check(
        "drift.length", "distance of the text lengths from the previous session's", is_measure=True
    ),
    Check("drift.vocabulary", "distance of the words from the previous session's", is_measure=True),
    Check(
        "drift.embedding",
        "distance of the texts' vectors from the previous session's",
        is_measure=True,
    ),
)
CHECKS = {check.name: check for check in _CHECKS}
"""Every check by name."""


def check_config(name: str, config: ValidationConfig) -> CheckConfig:
    """Return the configuration of a check."""
    group, _, field_name = name.partition(".")
    configured = getattr(getattr(config, group), field_name)
    assert isinstance(configured, CheckConfig)
    return configured


def is_active(name: str, config: ValidationConfig) -> bool:
    """Tell whether a check is on."""
    return check_config(name, config).severity != "off"


def active_checks(config: ValidationConfig) -> Iterator[Check]:
    """Yield every check that is on, in the order of the configuration."""
    for group in _GROUPS:
        section = getattr(config, group)
        for field in fields(section):
            name = f"{group}.{field.name}"
            if isinstance(getattr(section, field.name), CheckConfig) and is_active(name, config):
                yield CHECKS[name]
