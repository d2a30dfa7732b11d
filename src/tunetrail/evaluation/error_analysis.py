"""Error analysis: which rows a training fixes and breaks, the worst rows, and confused labels.

Everything follows from example rows, without a model.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.evaluation.example_rows import CANDIDATE, REFERENCE, ExampleRows
from tunetrail.evaluation.metric import Array, Floats
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.ranking import BEST_RANK, PREDICTED_LABEL
from tunetrail.plain_values import NOT_PLAIN, plain_values

MOST_LISTED = 20
"""Rows in a list of fixes, breaks or worst rows."""

TOKENS_OF_ROW = 8
"""Tokens of a row that are listed for each model, as those that cost it the most bits."""


@dataclass(frozen=True, kw_only=True)
class RowChanges:
    """What became right and wrong from the older model to the newer one.

    Attributes:
        rule: When a row is right, in words.
        fixed: Number of rows that went from wrong to right.
        broken: Number of rows that went from right to wrong.
        right: Number of rows that both models have right.
        wrong: Number of rows that both models have wrong.
        table: A line for each row with `row_id`, `before` and `after` (the quality of both models,
            higher is better), `right_before` and `right_after`.
    """

    rule: str
    fixed: int
    broken: int
    right: int
    wrong: int
    table: pd.DataFrame = field(metadata=NOT_PLAIN)

    @property
    def fixes(self) -> pd.DataFrame:
        """The rows that were fixed, the largest gain first."""
        is_fixed = ~self.table["right_before"] & self.table["right_after"]
        return _by_change(self.table[is_fixed], ascending=False)

    @property
    def breaks(self) -> pd.DataFrame:
        """The rows that were broken, the largest loss first."""
        is_broken = self.table["right_before"] & ~self.table["right_after"]
        return _by_change(self.table[is_broken], ascending=True)

    @property
    def worst(self) -> pd.DataFrame:
        """The rows that the newer model has wrong, the worst first."""
        wrong_rows = self.table[~self.table["right_after"]]
        return wrong_rows.sort_values("after", kind="stable")

    def to_dict(self) -> dict[str, Any]:
        """Return the rule and the counts as plain values."""
        return plain_values(self)


def row_changes(rows: ExampleRows, side: str = "test") -> RowChanges:
    """Return which rows the newer model fixes and breaks.

    When a row is right depends on what is known of it, the first that applies:

    - its predicted label is its label;
    - a right document comes first in its ranking;
    - the text that was written is exactly the wanted one;
    - the preferred answer is the likelier one;
    - its value of the primary metric is at least as good as the median row of the older model. For
      correlations, the value is how far apart the row's ranks by similarity and by score are.

    Args:
        rows: Example rows.
        side: `test` or `fold`.
    """
    table = rows.table[rows.table["side"] == side]
    before, after = (row_quality(table, rows.run.metric, model) for model in (REFERENCE, CANDIDATE))
    # Answers are written to some of the rows only.
    complete = set(table.columns[table.notna().all()])
    rule = next((rule for rule in _RULES if rule.column in complete), None)

    if rule is not None:
        words = rule.words
        right_before, right_after = (
            rule.is_right(table, model) for model in (REFERENCE, CANDIDATE)
        )
    else:
        words = "its value is at least as good as the median row of the version before"
        least = np.median(before) if len(before) else 0.0
        right_before, right_after = before >= least, after >= least

    return RowChanges(
        rule=words,
        fixed=int((~right_before & right_after).sum()),
        broken=int((right_before & ~right_after).sum()),
        right=int((right_before & right_after).sum()),
        wrong=int((~right_before & ~right_after).sum()),
        table=pd.DataFrame(
            {
                "row_id": table["row_id"],
                "before": before,
                "after": after,
                "right_before": right_before,
                "right_after": right_after,
            }
        ),
    )


def row_quality(table: pd.DataFrame, metric_name: str, model: str = CANDIDATE) -> Floats:
    """Return how good a model is on each row, higher is better, [rows].

    It is the row's value of the metric, negated if lower is better. A correlation has no value of a
    single row: there, it is the distance of the row's rank by similarity from its rank by score,
    as a share of all rows, negated.
    """
    metric = metric_named(metric_name)
    if metric.per_example:
        values: Floats = table[model + metric.name].to_numpy(dtype=np.float64)
        return values if metric.higher_is_better else -values

    first, second = (table[model + name].rank() for name in metric.reads)
    distances: Floats = (first - second).abs().to_numpy(dtype=np.float64) / max(1, len(table))
    return -distances


def costliest_tokens(
    before: pd.DataFrame, after: pd.DataFrame, limit: int = TOKENS_OF_ROW
) -> pd.DataFrame:
    """Return the tokens of a row that cost either model the most bits, the costliest first.

    Args:
        before: A line for each token by the older model: `text_before`, `token`, `text_after` and
            `bits`, its negative log-likelihood.
        after: The same by the newer model.
        limit: Tokens of each model.

    Returns:
        `text_before`, `token`, `text_after`, `bits_before` and `bits_after`. If the models split
        the text differently, each line has the bits of one model only.
    """
    older, newer = (
        tokens.rename(columns={"bits": name})
        for tokens, name in ((before, "bits_before"), (after, "bits_after"))
    )
    texts = ["text_before", "token", "text_after"]
    if before[texts].equals(after[texts]):
        joined = older.assign(bits_after=newer["bits_after"])
        of_either = (
            joined["bits_before"]
            .nlargest(limit)
            .index.union(joined["bits_after"].nlargest(limit).index)
        )
        chosen = joined.loc[of_either]
    else:
        chosen = pd.concat(
            [older.nlargest(limit, "bits_before"), newer.nlargest(limit, "bits_after")],
            ignore_index=True,
        )

    cost = chosen[["bits_before", "bits_after"]].max(axis=1)
    order = cost.sort_values(ascending=False, kind="stable").index
    return chosen.loc[order, [*texts, "bits_before", "bits_after"]]


def label_confusion(rows: ExampleRows, side: str = "test") -> pd.DataFrame | None:
    """Return how often each label was predicted for each label, [labels, predicted labels].

    None if the rows have no predicted labels.
    """
    table = rows.table[rows.table["side"] == side]
    if "label" not in table or PREDICTED_LABEL not in table:
        return None

    counts = pd.crosstab(table["label"].astype(str), table[PREDICTED_LABEL].astype(str))
    labels = sorted({*counts.index, *counts.columns})
    return counts.reindex(index=labels, columns=labels, fill_value=0)


def most_confused(confusion: pd.DataFrame, limit: int = MOST_LISTED) -> pd.DataFrame:
    """Return the most frequent mistakes: `label`, `predicted_label`, `rows`."""
    counts = confusion.to_numpy(copy=True)
    np.fill_diagonal(counts, 0)
    true, predicted = np.nonzero(counts)
    mistakes = pd.DataFrame(
        {
            "label": confusion.index[true],
            PREDICTED_LABEL: confusion.columns[predicted],
            "rows": counts[true, predicted],
        }
    )
    return mistakes.sort_values("rows", ascending=False, kind="stable").head(limit)


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """When a row is right, if the rows have a column."""

    column: str
    words: str
    is_right: Callable[[pd.DataFrame, str], Array]


def _predicts_label(table: pd.DataFrame, model: str) -> Array:
    is_right = table[model + PREDICTED_LABEL] == table["label"].astype(str)
    return np.asarray(is_right)


def _is_first(table: pd.DataFrame, model: str) -> Array:
    return np.asarray(table[model + BEST_RANK] == 1.0)


def _equals_one(column: str) -> Callable[[pd.DataFrame, str], Array]:
    # Ties of preferences count half, and an answer that isn't likelier isn't preferred.
    return lambda table, model: np.asarray(table[model + column] == 1.0)


# The first whose column the rows have is taken.
_RULES = (
    _Rule(
        column=PREDICTED_LABEL, words="its predicted label is its label", is_right=_predicts_label
    ),
    _Rule(column=BEST_RANK, words="a right document comes first", is_right=_is_first),
    _Rule(
        column="exact_match",
        words="the text written is the wanted one",
        is_right=_equals_one("exact_match"),
    ),
    _Rule(
        column="preference_accuracy",
        words="the preferred answer is likelier",
        is_right=_equals_one("preference_accuracy"),
    ),
)


def _by_change(table: pd.DataFrame, *, ascending: bool) -> pd.DataFrame:
    order = (table["after"] - table["before"]).sort_values(ascending=ascending, kind="stable")
    return table.loc[order.index]
