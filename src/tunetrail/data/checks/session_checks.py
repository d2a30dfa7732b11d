"""Checks that need a fact of every row of the session: languages, scales, labels, vectors' sizes.

They take the facts of all rows as arrays; they know no files. `vector_checks` has the checks that
look at the texts of a sample of rows.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from tunetrail.config import ValidationConfig
from tunetrail.data.checks.catalog import is_active
from tunetrail.data.checks.labels import imbalance, similar_labels, unknown_labels, usual_scale
from tunetrail.data.checks.results import Flag
from tunetrail.reporting.readable import counted

# Of the rows whose language is known: from this share on, the session has one language.
_DOMINANT_SHARE = 0.6
_SHOWN_LABELS = 5


@dataclass(frozen=True, kw_only=True)
class SessionFacts:
    """What is known of every row that passed the steps of its chunk, one value per row.

    Attributes:
        row_ids: Ids, ascending.
        languages: Codes, None if unknown.
        timestamps: ISO 8601, None if unknown.
        scores: Scores of `score` rows; None for other shapes.
        labels: Labels of `label` rows; None for other shapes.
        dimensions: Sizes of the target vectors of `vector` rows; None for other shapes.
    """

    row_ids: npt.NDArray[np.int64]
    languages: Sequence[str | None]
    timestamps: Sequence[str | None]
    scores: npt.NDArray[np.float64] | None = None
    labels: Sequence[str] | None = None
    dimensions: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class SessionFindings:
    """What the checks of a session found.

    Attributes:
        flags: Rows concerned, check by check.
        measures: The measures of checks that measure more than a share of rows, by check.
        rows_checked: Number of rows looked at, for checks that don't look at all rows.
        notes: A sentence for a check whose measure alone says too little.
    """

    flags: list[Flag] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    rows_checked: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add_rows(self, check: str, rows: Iterable[tuple[int, str]]) -> None:
        """Flag the rows that a check concerns, given as (row id, detail)."""
        self.flags.extend((row_id, check, detail) for row_id, detail in rows)

    def join(self, findings: "SessionFindings") -> None:
        """Add everything that other checks found."""
        self.flags.extend(findings.flags)
        self.measures.update(findings.measures)
        self.rows_checked.update(findings.rows_checked)
        self.notes.update(findings.notes)

    def masked(self, mask: Callable[[str], str]) -> "SessionFindings":
        """Return the findings with personal data replaced: labels in them aren't cleaned."""
        return replace(
            self,
            flags=[(row_id, check, mask(detail)) for row_id, check, detail in self.flags],
            notes={check: mask(note) for check, note in self.notes.items()},
        )


def check_facts(facts: SessionFacts, config: ValidationConfig) -> SessionFindings:
    """Run the checks that need one value per row: language, score range, labels, vectors' sizes."""
    findings = SessionFindings()
    row_ids = facts.row_ids.tolist()
    if is_active("rows.language", config):
        findings.add_rows("rows.language", _rows_in_other_languages(facts, config.language))
    if facts.scores is not None and is_active("labels.score_range", config):
        rows = _rows_off_scale(row_ids, facts.scores, config)
        findings.add_rows("labels.score_range", rows)
    if facts.labels is not None:
        _check_labels(row_ids, facts.labels, config, findings)
    if facts.dimensions is not None and is_active("vectors.dimension", config):
        rows = _rows_of_other_dimensions(row_ids, facts.dimensions, config)
        findings.add_rows("vectors.dimension", rows)
    return findings


def _rows_in_other_languages(facts: SessionFacts, language: str) -> Iterator[tuple[int, str]]:
    """Yield the rows in a language other than the configured one, or that of most rows (`auto`)."""
    known = Counter(code for code in facts.languages if code is not None)
    if not known:
        return
    if language == "auto":
        language, count = known.most_common(1)[0]
        if count < _DOMINANT_SHARE * known.total() or len(facts.row_ids) < 2:
            return

    for row_id, code in zip(facts.row_ids.tolist(), facts.languages, strict=True):
        if code not in (None, language):
            yield row_id, f"is in {code!r}, not in {language!r}"


def _rows_off_scale(
    row_ids: Sequence[int], scores: npt.NDArray[np.float64], config: ValidationConfig
) -> Iterator[tuple[int, str]]:
    low, high = usual_scale(scores, config.labels.minimum_score, config.labels.maximum_score)
    for index in np.flatnonzero((scores < low) | (scores > high)).tolist():
        yield row_ids[index], f"score {scores[index]:g} is not between {low:g} and {high:g}"


def _rows_of_other_dimensions(
    row_ids: Sequence[int], dimensions: npt.NDArray[np.int64], config: ValidationConfig
) -> Iterator[tuple[int, str]]:
    if not len(dimensions):
        return
    # Without a configured size, the most common one is right.
    configured = config.vectors.dimensions
    usual = configured or Counter(dimensions.tolist()).most_common(1)[0][0]
    expected = f"{usual}" if configured else f"the {usual} of most rows"
    for index in np.flatnonzero(dimensions != usual).tolist():
        yield row_ids[index], f"embedding has {dimensions[index]} dimensions, not {expected}"


def _check_labels(
    row_ids: Sequence[int],
    labels: Sequence[str],
    config: ValidationConfig,
    findings: SessionFindings,
) -> None:
    """Look for labels that are unknown, misspelt, or out of proportion."""
    counts = Counter(labels)
    reasons: dict[str, str] = {}
    if is_active("labels.unknown_label", config):
        reasons = unknown_labels(counts, config.labels.known)
        for row_id, label in zip(row_ids, labels, strict=True):
            if label in reasons:
                findings.add_rows("labels.unknown_label", [(row_id, reasons[label])])

    # Listed labels are all meant, and a misspelling was named already.
    if is_active("labels.similar", config) and config.labels.known is None:
        similar = similar_labels(counts)
        pairs = [
            f"{label!r} ({counted(counts[label], 'row')}) looks like "
            f"{commoner!r} ({counts[commoner]})"
            for label, commoner in similar.items()
            if label not in reasons
        ]
        if pairs:
            findings.measures["labels.similar"] = float(len(pairs))
            findings.notes["labels.similar"] = "; ".join(pairs[:_SHOWN_LABELS])

    # A measure of the session: no row is to blame for it, so none is flagged.
    if counts and is_active("labels.imbalance", config):
        (most_common, most), (rarest, fewest) = counts.most_common()[0], counts.most_common()[-1]
        findings.measures["labels.imbalance"] = imbalance(counts)
        note = f"{most_common!r} has {counted(most, 'row')}, {rarest!r} {fewest}"
        findings.notes["labels.imbalance"] = note
