"""Comparison of any models on the same test rows, from the values of each row, without a model."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.errors import UserError, did_you_mean
from tunetrail.evaluation.comparison import Comparison, cluster_index, compare
from tunetrail.evaluation.example_rows import CANDIDATE, TEST, ExampleRows
from tunetrail.evaluation.metrics import ANSWER_METRICS, METRICS, Floats, metric_named
from tunetrail.evaluation.scores import Scores, scores_from
from tunetrail.evaluation.significance import (
    RankTest,
    cohens_d,
    holm,
    mcnemar_p_value,
    permutation_p_value,
    rank_test,
)
from tunetrail.plain_values import plain_values

_SHOWN_NAMES = 8


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A model and the file that holds its scores.

    Attributes:
        name: Its name in the comparison.
        rows: The rows of the run that scored it.
        column: Prefix of its columns: `CANDIDATE`, or `REFERENCE` for what the run's candidate was
            compared with.
    """

    name: str
    rows: ExampleRows = field(repr=False)
    column: str = CANDIDATE

    @property
    def description(self) -> str:
        """Return in words where its scores come from."""
        run = self.rows.run
        if self.column == CANDIDATE:
            return f"candidate of run {run.run_id}"
        role = "base model" if run.against == "base" else "version to beat"
        return f"{role} of run {run.run_id}"

    def row_keys(self, metric: str | None = None) -> pd.MultiIndex:
        """Return the content of each test row, and which of the rows of that content it is.

        Args:
            metric: Leave out rows for which nothing was written, if the metric is one of answers.
        """
        hashes = self._test_rows["text_hash"]
        if hashes.isna().any():
            raise UserError(
                f"rows must have a text_hash by which they are recognised, got none of "
                f"{self.name} ({self.description}). Compare runs of another family."
            )
        keys = pd.MultiIndex.from_arrays([hashes, hashes.groupby(hashes).cumcount()])
        if metric not in ANSWER_METRICS:
            return keys
        return keys[self._test_rows[self.column + metric].notna().to_numpy()]

    def scores(self, metric: str, keys: pd.MultiIndex) -> Scores:
        """Return the scores on the test rows of these keys, in their order."""
        scores = self.rows.scores(self.column)
        positions = self.row_keys().get_indexer(keys)
        formula = metric_named(metric)
        names = {*formula.reads, *([metric] if formula.per_example else [])}
        values = {name: np.asarray(scores.per_example[name])[positions] for name in names}
        self._check_finite(values)

        clusters = scores.clusters
        return replace(
            scores_from(values, metric),
            clusters=None if clusters is None else [clusters[row] for row in positions],
            documents=scores.documents,
            corpus=scores.corpus,
        )

    @property
    def _test_rows(self) -> pd.DataFrame:
        table = self.rows.table
        return table[table["side"] == TEST]

    def _check_finite(self, values: dict[str, Any]) -> None:
        for name, column in values.items():
            broken = int(np.count_nonzero(~np.isfinite(column.astype(np.float64))))
            if broken:
                raise UserError(
                    f"{name} must be finite on every test row, got {broken} of {len(column)} rows "
                    f"of {self.name} that are not. Train that model again, or leave it out."
                )


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """What a comparison says of one model.

    Attributes:
        name: Its name.
        source: Where its scores come from, in words.
        run_id: The MLflow run with its scores.
        value: The metric.
        mean_rank: Mean of its ranks on the clusters; 1 is best. None for fewer than three models,
            and for metrics without a value per row.
    """

    name: str
    source: str
    run_id: str
    value: float
    mean_rank: float | None


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """Two of the models, compared; whatever has a sign is positive if the second is better.

    Attributes:
        first: Name of the first model.
        second: Name of the second model.
        comparison: Both values, and the improvement from the first to the second with its interval.
        p_value: Of the paired permutation test on whole clusters.
        adjusted_p_value: The same, corrected for the number of pairs (Holm).
        mcnemar_p_value: Of McNemar's exact test; None if the metric isn't right or wrong.
        effect_size: Cohen's d of the paired rows; None if it is undefined.
        wins: Number of rows on which the second is better; None for metrics without a value per
            row.
        ties: Number of rows on which both are equal.
        losses: Number of rows on which the first is better.
    """

    first: str
    second: str
    comparison: Comparison
    p_value: float
    adjusted_p_value: float
    mcnemar_p_value: float | None
    effect_size: float | None
    wins: int | None
    ties: int | None
    losses: int | None

    @property
    def better(self) -> str | None:
        """Name of the better model; None unless both the interval and the test say so."""
        lower, upper = self.comparison.lower, self.comparison.upper
        alpha = 1.0 - self.comparison.confidence
        if lower is None or upper is None or self.adjusted_p_value > alpha:
            return None
        if lower > 0.0:
            return self.second
        return self.first if upper < 0.0 else None

    @property
    def interval(self) -> str:
        """The interval of the improvement; without one, how few rows changed."""
        lower, upper = self.comparison.lower, self.comparison.upper
        if lower is None or upper is None:
            return self.comparison.interval_in_words
        return f"[{lower:+.4f}, {upper:+.4f}]"

    @property
    def verdict(self) -> str:
        """Return which model is better, or why that can't be decided."""
        if self.better is not None:
            worse = self.first if self.better == self.second else self.second
            return f"{self.better} is better than {worse}"

        reason = self.comparison.why_no_interval
        if reason is None:
            gain = self.comparison.detectable_gain
            reason = f"a difference of {gain:.4f} would be found in four of five such tests"
        return f"{self.first} and {self.second} can't be told apart: {reason}"

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the verdict as plain values."""
        return plain_values(self, "better", "verdict")


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """Models of one family on the same test rows.

    Attributes:
        model_type: Their family.
        shape: The shape of the rows.
        metric: Name of the metric compared.
        models: The models, in the order in which they were named.
        pairs: Every two of them.
        examples: Number of test rows compared.
        left_out: Number of further test rows that not all models were scored on.
        clusters: Number of clusters of these rows; None if they are independent.
        documents: Number of documents that were ranked; None for metrics without ranking.
        confidence: Coverage of each interval, and 1 minus the level of the tests.
        rank_test: Ranks of three or more models; None for metrics without a value per row.
    """

    model_type: str
    shape: str
    metric: str
    models: tuple[ModelResult, ...]
    pairs: tuple[PairResult, ...]
    examples: int
    left_out: int
    clusters: int | None
    documents: int | None
    confidence: float
    rank_test: RankTest | None

    @property
    def metric_in_words(self) -> str:
        """The metric with its direction, such as `nDCG@10, higher is better`."""
        metric = metric_named(self.metric)
        return f"{metric.label}, {'higher' if metric.higher_is_better else 'lower'} is better"

    @property
    def rows_in_words(self) -> str:
        """The rows that were compared, and which were left out."""
        text = f"{self.examples} test {'row' if self.examples == 1 else 'rows'}"
        if self.clusters is not None:
            text += f" in {self.clusters} {'group' if self.clusters == 1 else 'groups'}"
        if self.documents is not None:
            text += f" among {self.documents:,} documents"
        if self.left_out:
            text += f"; {self.left_out} further rows that not all models share are left out"
        return text

    @property
    def warning(self) -> str | None:
        """Return a warning if a single row decides much of the metric; None otherwise."""
        return self.pairs[0].comparison.warning

    def table(self) -> pd.DataFrame:
        """Return one line for each pair, with the columns of `PairResult`."""
        lines = []
        for pair in self.pairs:
            comparison = pair.comparison
            lines.append(
                {
                    "first": pair.first,
                    "second": pair.second,
                    "first_value": comparison.before,
                    "second_value": comparison.after,
                    "improvement": comparison.improvement,
                    "lower": comparison.lower,
                    "upper": comparison.upper,
                    "p_value": pair.p_value,
                    "adjusted_p_value": pair.adjusted_p_value,
                    "mcnemar_p_value": pair.mcnemar_p_value,
                    "effect_size": pair.effect_size,
                    "wins": pair.wins,
                    "ties": pair.ties,
                    "losses": pair.losses,
                    "better": pair.better,
                }
            )
        return pd.DataFrame(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return plain_values(self)


def compare_models(
    models: Sequence[ScoredModel],
    *,
    metric: str | None = None,
    common: bool = False,
    bootstrap_samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ModelComparison:
    """Compare two or more models on the same test rows.

    Each pair gets the interval of a paired bootstrap over whole clusters, the p-value of a paired
    permutation test, corrected by Holm for the number of pairs, McNemar's test if the metric is
    right or wrong, and Cohen's d. Three or more models are also ranked.

    Args:
        models: The models.
        metric: Name of the metric; by default the primary one.
        common: Compare on the rows that all models share, if not all are the same.
        bootstrap_samples: Resamples for an interval, and swaps for a p-value.
        confidence: Coverage of each interval; the level of the tests is 1 minus it.
        seed: Seed of all draws.

    Raises:
        UserError: The models can't be compared; the message says why.
    """
    _check_comparable(models)
    metric = _common_metric(models, metric)
    keys, left_out = _common_rows(models, metric, common)
    all_scores = [model.scores(metric, keys) for model in models]
    all_scores = _with_same_clusters(all_scores)

    pairs = []
    draws: dict[str, Any] = {"seed": seed}
    for (first, before), (second, after) in itertools.combinations(
        zip(models, all_scores, strict=True), 2
    ):
        comparison = compare(
            before, after, bootstrap_samples=bootstrap_samples, confidence=confidence, **draws
        )
        p_value = permutation_p_value(before, after, permutations=bootstrap_samples, **draws)
        pairs.append(_pair_result(first.name, second.name, before, after, comparison, p_value))
    adjusted = holm([pair.p_value for pair in pairs])
    pairs = [
        replace(pair, adjusted_p_value=p_value)
        for pair, p_value in zip(pairs, adjusted, strict=True)
    ]

    ranks = _rank(all_scores, confidence)
    results = []
    for position, (model, scores) in enumerate(zip(models, all_scores, strict=True)):
        result = ModelResult(
            name=model.name,
            source=model.description,
            run_id=model.rows.run.run_id,
            value=scores.value,
            mean_rank=None if ranks is None else ranks.mean_ranks[position],
        )
        results.append(result)

    run, comparison = models[0].rows.run, pairs[0].comparison
    return ModelComparison(
        model_type=run.model_type,
        shape=run.shape,
        metric=metric,
        models=tuple(results),
        pairs=tuple(pairs),
        examples=comparison.examples,
        left_out=left_out,
        clusters=comparison.clusters,
        documents=comparison.documents,
        confidence=confidence,
        rank_test=ranks,
    )


def same_rows(models: Sequence[ScoredModel]) -> bool:
    """Tell whether all models were scored on the same test rows among the same documents."""
    first, *further = models
    keys = set(first.row_keys())
    return all(
        model.rows.run.corpus == first.rows.run.corpus and set(model.row_keys()) == keys
        for model in further
    )


def _check_comparable(models: Sequence[ScoredModel]) -> None:
    if len(models) < 2:
        raise UserError(f"models must be at least 2, got {len(models)}. Name another one.")

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


def _common_metric(models: Sequence[ScoredModel], metric: str | None) -> str:
    """Return the name of the metric to compare by; it follows from the values of all files."""
    known = set.intersection(*(set(model.rows.value_names) for model in models))
    computable = [name for name, formula in METRICS.items() if known.issuperset(formula.reads)]

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


def _common_rows(
    models: Sequence[ScoredModel], metric: str, common: bool
) -> tuple[pd.MultiIndex, int]:
    """Return the keys of the rows to compare on, and how many further rows there are.

    Raises:
        UserError: The corpora differ; or the rows do, and `common` is False or none is shared.
    """
    _check_corpora(models)
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
            f"models must have test rows in common, got {counts} and none that all share. "
            "Compare runs of the same session."
        )
    if left_out and not common:
        raise UserError(
            f"models must have the same test rows, got {counts}, of which all share {len(shared)}. "
            "Add --common to compare on these alone."
        )
    return shared, left_out


def _check_corpora(models: Sequence[ScoredModel]) -> None:
    """Raise an error if the models ranked different documents."""
    runs = [model.rows.run for model in models]
    if len({run.corpus for run in runs}) == 1:
        return

    first, *further = [set(model.row_keys()) for model in models]
    shared = len(first.intersection(*further))
    shown = ", ".join(
        f"{model.rows.run.documents or 0:,} documents of {model.name}"
        for model in models[:_SHOWN_NAMES]
    )
    raise UserError(
        f"models must have ranked the same documents, got {shown}, which differ; of the test rows "
        f"they share {shared}. A ranking among other documents is another task: train on the same "
        "rows with the same evaluation.corpus_size."
    )


def _with_same_clusters(all_scores: Sequence[Scores]) -> list[Scores]:
    """Return the scores with the same clusters: the coarsest, as they claim the least evidence."""
    # Rows may have found a twin in between, and files of older runs don't know it.
    coarsest = min(all_scores, key=lambda scores: int(cluster_index(scores).max()))
    return [replace(scores, clusters=coarsest.clusters) for scores in all_scores]


def _pair_result(
    first: str, second: str, before: Scores, after: Scores, comparison: Comparison, p_value: float
) -> PairResult:
    wins = ties = losses = effect_size = None
    if metric_named(after.metric).per_example:
        differences = _signed(after) - _signed(before)
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        ties = len(differences) - wins - losses
        effect_size = cohens_d(differences)

    return PairResult(
        first=first,
        second=second,
        comparison=comparison,
        p_value=p_value,
        adjusted_p_value=p_value,
        mcnemar_p_value=mcnemar_p_value(before, after),
        effect_size=effect_size,
        wins=wins,
        ties=ties,
        losses=losses,
    )


def _signed(scores: Scores) -> Floats:
    """Return the metric's value of each row, turned so that higher is better."""
    sign = 1.0 if scores.higher_is_better else -1.0
    values: Floats = sign * scores.per_example[scores.metric].astype(np.float64)
    return values


def _rank(all_scores: Sequence[Scores], confidence: float) -> RankTest | None:
    """Return the test of the models' ranks; None for two models, or without values per row."""
    if len(all_scores) < 3 or not metric_named(all_scores[0].metric).per_example:
        return None
    cluster_of = cluster_index(all_scores[0])
    sizes = np.bincount(cluster_of)
    means = [np.bincount(cluster_of, weights=_signed(scores)) / sizes for scores in all_scores]
    return rank_test(np.array(means), confidence)
