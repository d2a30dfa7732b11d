"""What a recipe gains over the base model, on the held-out rows of all folds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata, t

from tunetrail.evaluation.comparison import Comparison, compare
from tunetrail.evaluation.example_rows import REFERENCE
from tunetrail.evaluation.metric import Floats
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.scores import Scores, scores_from
from tunetrail.fingerprints import value_fingerprint
from tunetrail.plain_values import plain_values
from tunetrail.reporting.readable import counted, shown_interval


def recipe_name(budget: float) -> str:
    """Return what a fold trains, for people: `recipe at 20 % of the steps`."""
    return f"recipe at {100.0 * budget:.3g} % of the steps"


def recipe_key(budget: float) -> str:
    """Return what a fold trains, for the keys of metrics, which have no percent sign."""
    return f"recipe_at_{100.0 * budget:.3g}_percent"


@dataclass(frozen=True, kw_only=True)
class CorrectedInterval:
    """The mean difference of folds, whose trainings share most of their rows.

    Attributes:
        mean: Mean of the differences.
        standard_error: Its standard error; None for a single fold.
        lower: Lower bound; minus infinity for a single fold.
        upper: Upper bound.
    """

    mean: float
    standard_error: float | None
    lower: float
    upper: float


def corrected_interval(
    differences: Sequence[float], test_ratio: float, confidence: float
) -> CorrectedInterval:
    """Return Student's t interval for the mean of the folds' differences, corrected for their rows.

    The folds' trainings share most of their rows, so that the plain standard error of the mean is
    too small: its square, s^2 / n, becomes s^2 (1/n + r), with r the rows tested over the rows
    trained on (Nadeau and Bengio, "Inference for the Generalization Error", 2003).

    Args:
        differences: One for each fold.
        test_ratio: Held-out rows over trained rows, on average: 1/(n - 1) if all n folds of a cut
            are trained.
        confidence: Coverage of the interval.
    """
    folds, mean = len(differences), float(np.mean(differences))
    if folds < 2:
        # The interval of a single fold holds everything, so that nothing is decided.
        return CorrectedInterval(mean=mean, standard_error=None, lower=-math.inf, upper=math.inf)

    error = float(np.std(differences, ddof=1) * math.sqrt(1.0 / folds + test_ratio))
    margin = float(t.ppf((1.0 + confidence) / 2.0, folds - 1)) * error
    return CorrectedInterval(
        mean=mean, standard_error=error, lower=mean - margin, upper=mean + margin
    )


@dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """The held-out rows of all folds, scored by the base model and by the fold's trained model.

    Attributes:
        before: The base model's scores of all held-out rows.
        after: The scores of the same rows by the model that was trained on the other folds.
        folds: The fold of each example, counted from 1.
    """

    before: Scores
    after: Scores
    folds: Sequence[int]

    def table(self) -> pd.DataFrame:
        """Return one line per example: `row_id` and `cluster` if known, `fold`, and the values.

        The values have their names for the trained model and the prefix `reference_` for the base.
        """
        table = self.after.table().assign(fold=list(self.folds))
        prefixed = {REFERENCE + name: values for name, values in self.before.per_example.items()}
        return table.assign(**prefixed)


@dataclass(frozen=True, kw_only=True)
class PairedGain:
    """What the folds' recipe gains over the base model; positive if it is better.

    Attributes:
        recipe: What the folds train, such as `recipe at 20 % of the steps`.
        comparison: Both models on the held-out rows of all folds, compared like any two models.
        base_folds: The base model's value of the primary metric in each fold.
        differences: The improvement of each fold.
        mean_difference: Mean of the differences.
        standard_error: Its standard error, corrected for the rows that folds share; None for a
            single fold.
        mean_lower: Lower bound of the mean's corrected interval; None for a single fold.
        mean_upper: Upper bound.
    """

    recipe: str
    comparison: Comparison
    base_folds: tuple[float, ...]
    differences: tuple[float, ...]
    mean_difference: float
    standard_error: float | None
    mean_lower: float | None
    mean_upper: float | None

    @property
    def sentence(self) -> str:
        """The gain and its evidence, for people."""
        comparison = self.comparison
        label = metric_named(comparison.metric).label
        rows = comparison.rows_in_words.replace("test row", "held-out row")
        # Groups of one row each would say nothing new.
        if comparison.clusters is not None and comparison.clusters < comparison.examples:
            rows += f" in {counted(comparison.clusters, 'group')}"
        interval = comparison.interval_in_words
        if comparison.lower is not None:
            interval = f"{100.0 * comparison.confidence:.3g} % interval {interval}"

        # Wider, because it also allows for how differently trainings on other rows turn out.
        mean = ""
        if self.mean_lower is not None and self.mean_upper is not None:
            mean = (
                f"; mean of the folds {self.mean_difference:+.4f}, corrected interval "
                f"{shown_interval(self.mean_lower, self.mean_upper)}"
            )
        folds = counted(len(self.differences), "fold")
        return (
            f"{self.recipe}: {label} {comparison.after:.4f} against {comparison.before:.4f} of the "
            f"base model, improvement {comparison.improvement:+.4f} ({interval}) over "
            f"{rows} of {folds}{mean}"
        )

    @property
    def figures(self) -> dict[str, float]:
        """What MLflow keeps: the pooled comparison, and the mean of the folds with its bounds."""
        names = ("mean_difference", "standard_error", "mean_lower", "mean_upper")
        values = {name: getattr(self, name) for name in names}
        known = {name: value for name, value in values.items() if value is not None}
        return {**self.comparison.figures, **known}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PairedGain":
        """Return the gain that `to_dict` gave as plain values; further keys are ignored."""
        known = {field.name: values[field.name] for field in fields(cls)}
        return cls(
            **{
                **known,
                "comparison": Comparison.from_dict(values["comparison"]),
                "base_folds": tuple(values["base_folds"]),
                "differences": tuple(values["differences"]),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields and the sentence as plain values."""
        return plain_values(self, "sentence")


def pool_folds(
    before: Sequence[Scores], after: Sequence[Scores], numbers: Sequence[int]
) -> OutOfFold:
    """Return the held-out rows of all folds as one set of examples.

    Args:
        before: The base model's scores of each fold's held-out rows.
        after: The trained models' scores of the same rows.
        numbers: The number of each fold, from 1.
    """
    fold_of = np.repeat(np.array(numbers), [scores.examples for scores in after])
    return OutOfFold(before=_pooled(before), after=_pooled(after), folds=tuple(map(int, fold_of)))


def paired_gain(
    before: Sequence[Scores],
    after: Sequence[Scores],
    *,
    budget: float,
    test_ratio: float,
    bootstrap_samples: int,
    confidence: float,
    seed: int,
) -> PairedGain:
    """Compare trained models with the base model on the held-out rows of all folds.

    The rows are pooled and compared by `compare`, which resamples whole clusters. That interval
    takes the trained models as they are; the interval of the folds' mean also has their spread.

    Args:
        before: The base model's scores of each fold's held-out rows.
        after: The trained models' scores of the same rows among the same documents.
        budget: The share of the steps that the folds were trained for.
        test_ratio: Held-out rows over trained rows, on average.
        bootstrap_samples: Number of resamples of the comparison.
        confidence: Coverage of both intervals.
        seed: Seed of the resamples.

    Raises:
        ValueError: Metrics, examples or corpora of a fold differ.
    """
    pooled_before, pooled_after = (
        _pooled(list(map(_comparable, side))) for side in (before, after)
    )
    comparison = compare(
        pooled_before,
        pooled_after,
        bootstrap_samples=bootstrap_samples,
        confidence=confidence,
        seed=seed,
    )

    sign = 1.0 if pooled_after.higher_is_better else -1.0
    base_folds = np.array([scores.value for scores in before])
    differences = sign * (np.array([scores.value for scores in after]) - base_folds)
    interval = corrected_interval(differences.tolist(), test_ratio, confidence)
    is_bounded = interval.standard_error is not None
    return PairedGain(
        recipe=recipe_name(budget),
        comparison=comparison,
        base_folds=tuple(base_folds.tolist()),
        differences=tuple(differences.tolist()),
        mean_difference=interval.mean,
        standard_error=interval.standard_error,
        mean_lower=interval.lower if is_bounded else None,
        mean_upper=interval.upper if is_bounded else None,
    )


def ranks_in_fold(cosines: Floats) -> Floats:
    """Return the rank of each pair of a fold, between 0 and 1, which means the same in every fold.

    Each fold's model has a scale of cosines of its own. In the order of all pairs, a difference of
    two scales would count as an error.
    """
    ranks: Floats = rankdata(cosines) / (len(cosines) + 1.0)
    return ranks


def _comparable(scores: Scores) -> Scores:
    """Return the scores of a fold with values that mean the same in every fold."""
    if scores.metric != "spearman":
        return scores
    ranks = ranks_in_fold(scores.per_example["cosine"])
    return replace(scores, per_example={**scores.per_example, "cosine": ranks})


def _pooled(fold_scores: Sequence[Scores]) -> Scores:
    """Return the examples of all folds with the primary metric on all of them.

    The number of documents is known if all folds rank as many.
    """
    first = fold_scores[0]
    per_example = {}
    for name in first.per_example:
        per_example[name] = np.concatenate([scores.per_example[name] for scores in fold_scores])
    # Of all folds' corpora, in order: what is compared has to be equal fold by fold.
    corpora = [scores.corpus for scores in fold_scores]
    documents = {scores.documents for scores in fold_scores}

    return replace(
        scores_from(per_example, first.metric),
        row_ids=_chained(scores.row_ids for scores in fold_scores),
        clusters=_chained(scores.clusters for scores in fold_scores),
        documents=documents.pop() if len(documents) == 1 else None,
        corpus=value_fingerprint(corpora) if any(corpora) else None,
        scored_rows=_total(scores.scored_rows for scores in fold_scores),
        side_rows=_total(scores.side_rows for scores in fold_scores),
    )


def _chained(columns: Any) -> list[Any] | None:
    """Return the values of all folds; None if a fold doesn't know its values."""
    known = list(columns)
    return None if None in known else list(chain.from_iterable(known))


def _total(counts: Any) -> int | None:
    """Return the sum over all folds; None if a fold doesn't know its count."""
    known = list(counts)
    return None if None in known else sum(known)
