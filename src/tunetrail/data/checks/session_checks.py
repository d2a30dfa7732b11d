"""Checks that need the whole session: languages, scales, labels, vectors' sizes, and what a model's vectors show.

Takes facts of all rows as arrays, and texts of a few; gives flags and measures. Knows no file and no model.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import ValidationConfig
from tunetrail.data.checks.drift import embedding_drift, length_drift, vocabulary_drift
from tunetrail.data.checks.labels import imbalance, unknown_labels, usual_scale
from tunetrail.data.checks.mislabelled import mislabelled
from tunetrail.data.checks.outliers import outliers
from tunetrail.data.rows import texts_of_rows

Vectors = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Unit vectors of texts, [texts, dimensions], by the model that will be trained."""
Flag = tuple[int, str, str]
"""A row's id, the check that it is concerned by, and the detail."""

_JUDGED_FROM_ROWS = 50
"""Fewer rows than this are too few to tell what is usual."""
_DOMINANT_SHARE = 0.6
"""Of the rows whose language is known: from here on a session has one language, and other rows are odd."""
_COMPARED_FROM_ROWS = 30
"""Both sessions need as many rows for a difference to mean anything."""


@dataclass(frozen=True, kw_only=True)
class SessionFacts:
    """What is known of every row that passed the steps of its chunk; arrays have one value per row.

    Attributes:
        row_ids: Ids, ascending.
        languages: Codes, None where unknown.
        timestamps: ISO 8601, None where unknown.
        scores: Of `score` rows, else None.
        labels: Of `label` rows, else None.
        dimensions: Sizes of the target vectors of `vector` rows, else None.
    """

    row_ids: npt.NDArray[np.int64]
    languages: Sequence[str | None]
    timestamps: Sequence[str | None]
    scores: npt.NDArray[np.float64] | None = None
    labels: Sequence[str] | None = None
    dimensions: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class SessionJudgement:
    """What the checks of a session found.

    Attributes:
        flags: Rows concerned, check by check.
        measures: Of checks whose measure is not a share of rows, by name.
        judged: Number of rows looked at, of checks that don't look at all.
        notes: A sentence for a check where its measure alone says too little.
    """

    flags: list[Flag] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    judged: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, check: str, found: Iterable[tuple[int, str]]) -> None:
        """Add a check's rows, (row id, detail)."""
        self.flags.extend((row_id, check, detail) for row_id, detail in found)

    def masked(self, mask: Callable[[str], str]) -> "SessionJudgement":
        """Return the judgement with personal data in its texts replaced: they name labels, which aren't cleaned."""
        return replace(
            self,
            flags=[(row_id, check, mask(detail)) for row_id, check, detail in self.flags],
            notes={check: mask(note) for check, note in self.notes.items()},
        )

    def join(self, other: "SessionJudgement") -> None:
        """Add everything that other checks found."""
        self.flags.extend(other.flags)
        self.measures.update(other.measures)
        self.judged.update(other.judged)
        self.notes.update(other.notes)


def judge_facts(facts: SessionFacts, config: ValidationConfig) -> SessionJudgement:
    """Run the checks that need one value per row: language, score range, labels, sizes of vectors."""
    judgement = SessionJudgement()
    if config.rows.language.severity != "off":
        judgement.add("rows.language", _foreign(facts, config.language))
    if facts.scores is not None and config.labels.score_range.severity != "off":
        judgement.add("labels.score_range", _out_of_range(facts.row_ids, facts.scores, config))
    if facts.labels is not None:
        _judge_labels(facts.row_ids, facts.labels, config, judgement)
    if (
        facts.dimensions is not None
        and len(facts.dimensions)
        and config.vectors.dimension.severity != "off"
    ):
        usual = config.vectors.dimensions or Counter(facts.dimensions.tolist()).most_common(1)[0][0]
        wrong = np.flatnonzero(facts.dimensions != usual)
        reason = "embedding has {} dimensions, not " + (
            f"{usual}" if config.vectors.dimensions else f"the {usual} of most rows"
        )
        judgement.add(
            "vectors.dimension",
            ((int(facts.row_ids[each]), reason.format(facts.dimensions[each])) for each in wrong),
        )
    return judgement


def judge_vectors(
    rows: pd.DataFrame, vectors: npt.NDArray[np.float32], config: ValidationConfig, seed: int
) -> SessionJudgement:
    """Run the checks that need vectors: outliers and mislabelled rows.

    Args:
        rows: The rows judged, with a `cluster` column.
        vectors: Unit vectors of their texts, [rows, dimensions].
        config: Which of the checks are on.
        seed: Decides where chance does.
    """
    judgement = SessionJudgement()
    ids = rows["row_id"].to_numpy()
    if config.rows.outlier.severity != "off":
        judgement.judged["rows.outlier"] = len(rows)
        if len(rows) >= _JUDGED_FROM_ROWS:
            labels = list(rows["label"]) if "label" in rows else None
            odd = np.flatnonzero(outliers(vectors, seed=seed, labels=labels))
            judgement.add(
                "rows.outlier", ((int(ids[each]), "unlike all other rows") for each in odd)
            )
    if "label" in rows and config.labels.mislabelled.severity != "off":
        judgement.judged["labels.mislabelled"] = len(rows)
        if len(rows) >= _JUDGED_FROM_ROWS:
            labels = list(rows["label"])
            found = mislabelled(vectors, labels, groups=list(rows["cluster"]), seed=seed)
            judgement.add(
                "labels.mislabelled",
                (
                    (
                        int(ids[each]),
                        f"labelled {labels[each]!r}, looks like {found.suggested[each]!r}",
                    )
                    for each in np.flatnonzero(found.flagged)
                ),
            )
    return judgement


def judge_drift(
    rows: pd.DataFrame,
    reference: pd.DataFrame,
    vectors: npt.NDArray[np.float32] | None,
    reference_vectors: npt.NDArray[np.float32] | None,
    config: ValidationConfig,
    seed: int,
) -> SessionJudgement:
    """Measure how far the rows are from those of the previous session; nothing where either has too few."""
    judgement = SessionJudgement()
    if min(len(rows), len(reference)) < _COMPARED_FROM_ROWS:
        return judgement
    now, before = (
        ["\n".join(each) for each in texts_of_rows(frame)] for frame in (rows, reference)
    )
    if config.drift.length.severity != "off":
        lengths = [
            np.array([len(text) for text in texts], dtype=np.float64) for texts in (before, now)
        ]
        judgement.measures["drift.length"] = length_drift(*lengths)
    if config.drift.vocabulary.severity != "off":
        judgement.measures["drift.vocabulary"] = vocabulary_drift(before, now, seed=seed)
    if (
        config.drift.embedding.severity != "off"
        and vectors is not None
        and reference_vectors is not None
    ):
        judgement.measures["drift.embedding"] = embedding_drift(
            reference_vectors, vectors, seed=seed
        )
    for check in judgement.measures:
        judgement.judged[check] = len(rows)
    return judgement


def _foreign(facts: SessionFacts, wanted: str) -> Iterator[tuple[int, str]]:
    """Yield rows in another language than the wanted one, or than that of most rows."""
    known = Counter(language for language in facts.languages if language is not None)
    if not known:
        return
    language, count = known.most_common(1)[0]
    if wanted != "auto":
        language = wanted
    elif count < _DOMINANT_SHARE * known.total() or len(facts.row_ids) < 2:
        return
    for row_id, found in zip(facts.row_ids.tolist(), facts.languages, strict=True):
        if found is not None and found != language:
            yield row_id, f"is in {found!r}, not in {language!r}"


def _out_of_range(
    row_ids: npt.NDArray[np.int64], scores: npt.NDArray[np.float64], config: ValidationConfig
) -> Iterator[tuple[int, str]]:
    low, high = usual_scale(scores, config.labels.minimum_score, config.labels.maximum_score)
    for each in np.flatnonzero((scores < low) | (scores > high)):
        yield int(row_ids[each]), f"score {scores[each]:g} is not between {low:g} and {high:g}"


def _judge_labels(
    row_ids: npt.NDArray[np.int64],
    labels: Sequence[str],
    config: ValidationConfig,
    judgement: SessionJudgement,
) -> None:
    counts = Counter(labels)
    if config.labels.unknown_label.severity != "off":
        reasons = unknown_labels(counts, config.labels.known)
        ids = row_ids.tolist()
        judgement.add(
            "labels.unknown_label",
            (
                (row_id, reasons[label])
                for row_id, label in zip(ids, labels, strict=True)
                if label in reasons
            ),
        )
    if config.labels.imbalance.severity != "off" and counts:
        (commonest, most), (rarest, fewest) = counts.most_common()[0], counts.most_common()[-1]
        judgement.measures["labels.imbalance"] = imbalance(counts)
        judgement.notes["labels.imbalance"] = f"{commonest!r} has {most} rows, {rarest!r} {fewest}"
