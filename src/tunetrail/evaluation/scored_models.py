"""Scored models: the scores that files of example rows hold, and whether they can be compared."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.config import BASE
from tunetrail.errors import UserError, did_you_mean
from tunetrail.evaluation.example_rows import CANDIDATE, FOLD, TEST, ExampleRows
from tunetrail.evaluation.fold_gain import ranks_in_fold
from tunetrail.evaluation.metrics import ANSWER_METRICS, METRICS, metric_named
from tunetrail.evaluation.scores import Scores, scores_from
from tunetrail.extensions import METRICS as INSTALLED_METRICS

_SHOWN_NAMES = 8
_SIDE_IN_WORDS = {TEST: "test rows", FOLD: "rows of folds"}


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A model and the file that holds its scores.

    Attributes:
        name: Its name in the comparison.
        rows: The rows of the run that scored it.
        column: Prefix of its columns: `CANDIDATE`, or `REFERENCE` for what the run's candidate was
            compared with.
        side: `TEST`, or `FOLD` for the held-out rows of all folds: there, the candidate is the
            recipe, and the reference is the base model.
    """

    name: str
    rows: ExampleRows = field(repr=False)
    column: str = CANDIDATE
    side: str = TEST

    @property
    def description(self) -> str:
        """Return in words where its scores come from."""
        run = self.rows.run
        if self.side == FOLD:
            role = "recipe" if self.column == CANDIDATE else "base model"
            return f"{role} on the folds of run {run.run_id}"
        if self.column == CANDIDATE:
            return f"candidate of run {run.run_id}"
        role = "base model" if run.against == BASE else "version to beat"
        return f"{role} of run {run.run_id}"

    @property
    def corpus(self) -> str | None:
        """Fingerprint of the documents that its rows ranked; None for metrics without ranking."""
        return self.rows.run.corpus if self.side == TEST else self.rows.run.fold_corpus

    def row_keys(self, metric: str | None = None) -> pd.MultiIndex:
        """Return the content of each row, and which of the rows of that content it is.

        Args:
            metric: Leave out rows for which nothing was written, if the metric is one of answers.
        """
        # Row ids belong to one database: rows of two runs are recognised by their content.
        hashes = self.side_rows["text_hash"]
        if hashes.isna().any():
            raise UserError(
                f"rows must have a text_hash by which they are recognised, got none of "
                f"{self.name} ({self.description}). Compare runs of another family."
            )
        keys = pd.MultiIndex.from_arrays([hashes, hashes.groupby(hashes).cumcount()])
        if metric not in ANSWER_METRICS:
            return keys
        return keys[self.side_rows[self.column + metric].notna().to_numpy()]

    def scores(self, metric: str, keys: pd.MultiIndex) -> Scores:
        """Return the scores on the rows of these keys, in their order."""
        scores = self.rows.scores(self.column, self.side)
        positions = self.row_keys().get_indexer(keys)
        formula = metric_named(metric)
        names = {*formula.reads, *([metric] if formula.per_example else [])}
        columns = {name: np.asarray(scores.per_example[name]) for name in names}
        # Each fold has a model of its own, so cosines can only be ranked within their fold.
        if self.side == FOLD and metric == "spearman":
            cosines = pd.Series(columns["cosine"])
            folds = self.side_rows["fold"].to_numpy()
            columns["cosine"] = cosines.groupby(folds).transform(ranks_in_fold).to_numpy()
        values = {name: column[positions] for name, column in columns.items()}
        self._check_finite(values)

        clusters = scores.clusters
        # Of some of the rows, their number says it all.
        is_whole = len(keys) == scores.examples
        return replace(
            scores_from(values, metric),
            clusters=None if clusters is None else [clusters[row] for row in positions],
            documents=scores.documents,
            corpus=scores.corpus,
            scored_rows=scores.scored_rows if is_whole else None,
            side_rows=scores.side_rows if is_whole else None,
        )

    @property
    def side_rows(self) -> pd.DataFrame:
        """The lines of the file that are of its side."""
        table = self.rows.table
        return table[table["side"] == self.side]

    def _check_finite(self, values: dict[str, Any]) -> None:
        for name, column in values.items():
            broken = int(np.count_nonzero(~np.isfinite(column.astype(np.float64))))
            if broken:
                raise UserError(
                    f"{name} must be finite on every row, got {broken} of {len(column)} rows "
                    f"of {self.name} that are not. Train that model again, or leave it out."
                )


def same_rows(models: Sequence[ScoredModel]) -> bool:
    """Tell whether all models were scored on the same rows among the same documents."""
    first, *further = models
    keys = set(first.row_keys())
    return all(model.corpus == first.corpus and set(model.row_keys()) == keys for model in further)


def check_comparable(models: Sequence[ScoredModel]) -> None:
    """Raise `UserError` unless there are two different models of one family and shape, or more."""
    if len(models) < 2:
        raise UserError(f"models must be at least 2, got {len(models)}. Name another one.")
    for model in models:
        if model.side_rows.empty:
            raise UserError(
                f"models must have {_SIDE_IN_WORDS[model.side]}, got none of {model.name} "
                f"({model.description}). Train it with cross_validation.n_splits=5."
            )

    for first, second in itertools.combinations(models, 2):
        same_file = first.rows.run.run_id == second.rows.run.run_id
        if same_file and first.column == second.column:
            raise UserError(
                f"models must be different, got {first.name} and {second.name}, which are both the "
                f"{first.description}. Name another one."
            )
    for name, noun in (("model_type", "family"), ("shape", "shape of rows")):
        values = [getattr(model.rows.run, name) for model in models]
        if len(set(values)) > 1:
            shown = ", ".join(
                f"{value} of {model.name}" for model, value in zip(models, values, strict=True)
            )
            raise UserError(
                f"models must have the same {noun}, got {shown}. Compare runs of one {noun}."
            )


def common_metric(models: Sequence[ScoredModel], metric: str | None) -> str:
    """Return the name of the metric to compare by; it follows from the values of all files.

    Raises:
        UserError: The metric isn't in all files, or the primary ones differ and none is chosen.
    """
    # What was kept of each row decides, whatever metrics the runs themselves reported.
    known = set.intersection(*(set(model.rows.value_names) for model in models))
    computable = [name for name, formula in METRICS.items() if known.issuperset(formula.reads)]
    # A package's metric is the mean of the values under its own name.
    computable += [name for name in INSTALLED_METRICS.names() if name in known]
    if models[0].side == FOLD:
        # Cosines of several folds' models have no common scale, and only ranks do without one.
        computable = [
            name
            for name in computable
            if name == "spearman" or "cosine" not in metric_named(name).reads
        ]

    primary = {model.name: model.rows.run.metric for model in models}
    if metric is None and len(set(primary.values())) > 1:
        shown = ", ".join(f"{value} of {name}" for name, value in primary.items())
        raise UserError(
            f"models must have the same primary metric, got {shown}. "
            f"Choose one with --metric: {', '.join(computable) or 'no metric is in all files'}."
        )
    chosen = metric or next(iter(primary.values()))
    if chosen not in computable:
        raise UserError(
            f"metric must be one that all models have ({', '.join(computable)}), got {chosen!r}."
            f"{did_you_mean(chosen, computable)} Choose one of them with --metric."
        )
    return chosen


def common_rows(
    models: Sequence[ScoredModel], metric: str, common: bool
) -> tuple[pd.MultiIndex, int]:
    """Return the keys of the rows to compare on, and how many further rows there are.

    Raises:
        UserError: Folds or corpora differ; or the rows do, and `common` is False or none is shared.
    """
    _check_folds(models)
    _check_corpora(models)
    side = _SIDE_IN_WORDS[models[0].side]
    first, *further = [model.row_keys(metric) for model in models]
    shared = every = first
    for keys in further:
        # Kept in the order of the first model's rows, so that the result has one order.
        shared = shared[shared.isin(keys)]
        every = every.append(keys)
    left_out = every.nunique() - len(shared)

    counts = ", ".join(
        f"{len(keys)} rows of {model.name}"
        for model, keys in zip(models, (first, *further), strict=True)
    )
    if len(shared) == 0:
        raise UserError(
            f"models must have {side} in common, got {counts} and none that all share. "
            "Compare runs of the same session."
        )
    if left_out and not common:
        raise UserError(
            f"models must have the same {side}, got {counts}, of which all share {len(shared)}. "
            "Add --common to compare on these alone."
        )
    return shared, left_out


def rows_of_equal_bytes(
    models: Sequence[ScoredModel], metric: str, keys: pd.MultiIndex
) -> tuple[pd.MultiIndex, int]:
    """Return the keys of rows of which all models were scored on the same bytes.

    A row that the maximum length cuts is another text for a tokenizer of longer tokens.

    Returns:
        The keys, and the number of rows that were left out.

    Raises:
        UserError: There is no such row.
    """
    # Only metrics per byte depend on where a tokenizer has cut a row.
    if metric_named(metric).weight != "bytes":
        return keys, 0

    first, *further = [model.scores(metric, keys).per_example["bytes"] for model in models]
    is_equal = np.ones(len(keys), dtype=bool)
    for scored_bytes in further:
        is_equal &= scored_bytes == first
    if not is_equal.any():
        raise UserError(
            f"models must have been scored on the same bytes of some rows, got none of {len(keys)} "
            "rows. Their tokenizers cut them at different places: raise llm.max_length, and train "
            "again."
        )
    return keys[is_equal], int(np.count_nonzero(~is_equal))


def _check_folds(models: Sequence[ScoredModel]) -> None:
    """Raise an error if a row that models share was held out in different folds."""
    first, *further = models
    if first.side != FOLD:
        return
    # A row in another fold was scored by a model that has learnt from other rows.
    fold_of_row = pd.Series(first.side_rows["fold"].to_numpy(), first.row_keys())
    for model in further:
        folds = pd.Series(model.side_rows["fold"].to_numpy(), model.row_keys())
        shared = fold_of_row.index.intersection(folds.index)
        moved = int((fold_of_row[shared] != folds[shared]).sum())
        if moved:
            raise UserError(
                f"models must have the same folds, got {moved} of {len(shared)} shared rows of "
                f"{first.name} and {model.name} in other folds. Train on the same session with "
                "the same seed, split and cross_validation.n_splits."
            )


def _check_corpora(models: Sequence[ScoredModel]) -> None:
    """Raise an error if the models ranked different documents."""
    if len({model.corpus for model in models}) == 1:
        return

    first, *further = [set(model.row_keys()) for model in models]
    shared = len(first.intersection(*further))
    shown = ", ".join(
        f"{model.rows.run.documents or 0:,} documents of {model.name}"
        for model in models[:_SHOWN_NAMES]
    )
    side = _SIDE_IN_WORDS[models[0].side]
    raise UserError(
        f"models must have ranked the same documents, got {shown}, which differ; of the {side} "
        f"they share {shared}. A ranking among other documents is another task: train on the same "
        "rows with the same evaluation.corpus_size."
    )
