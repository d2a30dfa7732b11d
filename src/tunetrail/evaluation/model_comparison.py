"""Comparison of any models on the same rows, from the values of each row, without a model."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.evaluation.comparison import Comparison, compare
from tunetrail.evaluation.example_rows import FOLD
from tunetrail.evaluation.metric import Floats
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.resampling import cluster_index
from tunetrail.evaluation.scored_models import (
    ScoredModel,
    check_comparable,
    common_metric,
    common_rows,
    rows_of_equal_bytes,
)
from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.significance import (
    RankTest,
    cohens_d,
    holm,
    mcnemar_p_value,
    permutation_p_value,
    rank_test,
)
from tunetrail.plain_values import plain_values
from tunetrail.reporting.readable import counted

NOT_CORRECTED_FOR_LOOKS = (
    "Not corrected for looks: of many models compared on the same rows, one is the best by chance. "
    "The gate's decision counts the looks."
)
"""What every comparison says of itself."""


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
        # The p-value is corrected for the number of pairs, the interval isn't: both have to say so.
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
    """Models of one family on the same rows.

    Attributes:
        model_type: Their family.
        shape: The shape of the rows.
        metric: Name of the metric compared.
        models: The models, in the order in which they were named.
        pairs: Every two of them.
        examples: Number of rows compared.
        left_out: Number of further rows that not all models were scored on.
        clusters: Number of clusters of these rows; None if they are independent.
        documents: Number of documents that were ranked; None for metrics without ranking.
        confidence: Coverage of each interval, and 1 minus the level of the tests.
        rank_test: Ranks of three or more models; None for metrics without a value per row.
        folds: Number of folds whose held-out rows are compared; None for test rows.
        cut_rows: Number of further rows of which the models' tokenizers read different bytes.
        bytes: Number of bytes that all models were scored on; None for metrics that count none.
        scored_rows: Number of rows that the examples stand for; None if unknown, or if rows were
            left out.
        side_rows: Number of rows that were to be scored; None in the same cases.
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
    folds: int | None = None
    cut_rows: int = 0
    bytes: int | None = None
    scored_rows: int | None = None
    side_rows: int | None = None

    @property
    def metric_in_words(self) -> str:
        """The metric with its direction, such as `nDCG@10, higher is better`."""
        metric = metric_named(self.metric)
        return f"{metric.label}, {'higher' if metric.higher_is_better else 'lower'} is better"

    @property
    def rows_in_words(self) -> str:
        """The rows that were compared, and which were left out."""
        side = "test" if self.folds is None else "held-out"
        text = counted(self.examples, f"{side} row")
        if self.scored_rows is not None and self.side_rows is not None:
            text = f"{self.scored_rows} of {counted(self.side_rows, f'{side} row')}"
            # Rows with equal anchors are one query.
            if self.examples != self.scored_rows:
                text += f" ({self.examples:,} {'query' if self.examples == 1 else 'queries'})"
        if self.folds is not None:
            text += f" of {counted(self.folds, 'fold')}"

        if self.clusters is not None:
            text += f" in {counted(self.clusters, 'group')}"
        if self.documents is not None:
            text += f" among {counted(self.documents, 'document')}"
        if self.bytes is not None:
            text += f", {counted(self.bytes, 'byte')}"

        if self.left_out:
            text += f"; left out: {counted(self.left_out, 'further row')} that not all models share"
        if self.cut_rows:
            rows = counted(self.cut_rows, "row")
            text += f"; left out: {rows} that the tokenizers cut at different bytes"

        return text

    @property
    def warning(self) -> str | None:
        """Return a warning if a single row decides much of the metric; None otherwise."""
        return self.pairs[0].comparison.warning

    @property
    def caveat(self) -> str:
        """What the figures leave out."""
        return NOT_CORRECTED_FOR_LOOKS

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
        """Return all fields and the caveat as plain values."""
        return plain_values(self, "caveat")


def compare_models(
    models: Sequence[ScoredModel],
    *,
    metric: str | None = None,
    common: bool = False,
    bootstrap_samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> ModelComparison:
    """Compare two or more models on the same rows.

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
    check_comparable(models)
    metric = common_metric(models, metric)
    keys, left_out = common_rows(models, metric, common)
    keys, cut_rows = rows_of_equal_bytes(models, metric, keys)
    all_scores = _with_same_clusters([model.scores(metric, keys) for model in models])

    pairs = []
    named_scores = zip(models, all_scores, strict=True)
    for (first, before), (second, after) in itertools.combinations(named_scores, 2):
        comparison = compare(
            before, after, bootstrap_samples=bootstrap_samples, confidence=confidence, seed=seed
        )
        p_value = permutation_p_value(before, after, permutations=bootstrap_samples, seed=seed)
        pairs.append(_pair_result(first.name, second.name, comparison, p_value, before, after))

    ranks = _rank(all_scores, confidence)
    run, comparison = models[0].rows.run, pairs[0].comparison
    # A side's row counts say nothing about a comparison of only some of its rows.
    is_whole = not left_out and not cut_rows
    return ModelComparison(
        model_type=run.model_type,
        shape=run.shape,
        metric=metric,
        models=_model_results(models, all_scores, ranks),
        pairs=_with_adjusted_p_values(pairs),
        examples=comparison.examples,
        left_out=left_out,
        clusters=comparison.clusters,
        documents=comparison.documents,
        confidence=confidence,
        rank_test=ranks,
        folds=_fold_count(models[0]),
        cut_rows=cut_rows,
        bytes=comparison.bytes,
        scored_rows=comparison.scored_rows if is_whole else None,
        side_rows=comparison.side_rows if is_whole else None,
    )


def _model_results(
    models: Sequence[ScoredModel], all_scores: Sequence[Scores], ranks: RankTest | None
) -> tuple[ModelResult, ...]:
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
    return tuple(results)


def _with_adjusted_p_values(pairs: Sequence[PairResult]) -> tuple[PairResult, ...]:
    """Return the pairs with p-values that are corrected for their number."""
    adjusted = holm([pair.p_value for pair in pairs])
    return tuple(
        replace(pair, adjusted_p_value=p_value)
        for pair, p_value in zip(pairs, adjusted, strict=True)
    )


def _fold_count(model: ScoredModel) -> int | None:
    """Return the number of folds whose rows are compared; None for test rows."""
    return int(model.side_rows["fold"].nunique()) if model.side == FOLD else None


def _with_same_clusters(all_scores: Sequence[Scores]) -> list[Scores]:
    """Return the scores with the same clusters: the coarsest, as they claim the least evidence."""
    # Rows may have found a twin in between, and files of older runs don't know it.
    coarsest = min(all_scores, key=lambda scores: int(cluster_index(scores).max()))
    return [replace(scores, clusters=coarsest.clusters) for scores in all_scores]


def _pair_result(
    first: str, second: str, comparison: Comparison, p_value: float, before: Scores, after: Scores
) -> PairResult:
    """Return the comparison of two models with the counts of rows and the size of the effect."""
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
        # Corrected when the p-values of all pairs are known.
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
    # Friedman's test takes independent blocks: clusters, and not the rows within them.
    cluster_of = cluster_index(all_scores[0])
    sizes = np.bincount(cluster_of)
    means = [np.bincount(cluster_of, weights=_signed(scores)) / sizes for scores in all_scores]
    return rank_test(np.array(means), confidence)
