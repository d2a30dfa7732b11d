"""The page of a comparison of models: one HTML file that needs no network."""

from collections.abc import Mapping
from pathlib import Path

from tunetrail.evaluation.model_comparison import ModelComparison, PairResult
from tunetrail.reporting.html import PageTemplate, captioned

_CAPTIONS = {
    "pairs": "Improvement from the first model to the second, with its interval",
    "critical_difference": "Mean ranks; a bar joins models that can't be told apart by rank",
}


def comparison_page(comparison: ModelComparison, pictures: Mapping[str, bytes]) -> str:
    """Return the comparison as the text of one HTML file; names in it are escaped.

    Args:
        comparison: The comparison.
        pictures: What `comparison_pictures` returns of it.
    """
    return _TEMPLATE.render(comparison=comparison, pictures=captioned(pictures, _CAPTIONS))


def shown_p_value(p_value: float | None) -> str:
    """Return a p-value with three decimals; `-` if there is none."""
    if p_value is None:
        return "-"
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def shown_counts(pair: PairResult) -> str:
    """Return on how many rows the second model is better, equal and worse."""
    return "-" if pair.wins is None else f"{pair.wins} / {pair.ties} / {pair.losses}"


def shown_effect(pair: PairResult) -> str:
    """Return Cohen's d with its sign; `-` if it is undefined."""
    return "-" if pair.effect_size is None else f"{pair.effect_size:+.2f}"


_TEMPLATE = PageTemplate(
    Path(__file__).with_name("comparison.html"),
    {
        "p_value": shown_p_value,
        "counts": shown_counts,
        "effect": shown_effect,
        "score": "{:.4f}".format,
        "rank": "{:.2f}".format,
        "level": lambda confidence: f"{100.0 * confidence:.3g}%",
    },
)
