"""The page of a training: one HTML file that needs no network."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.evaluation.decision_text import decision_text, interval_with_level, model_in_words
from tunetrail.evaluation.error_analysis import label_confusion, most_confused
from tunetrail.evaluation.metrics import metric_named
from tunetrail.evaluation.plots import MOST_SLICES, slice_name
from tunetrail.evaluation.report.pictures import (
    alternative_texts,
    report_figures,
)
from tunetrail.evaluation.report.run_report import ModelReport, RunReport
from tunetrail.evaluation.report.tables import MetricLine, map_groups, metric_lines
from tunetrail.reporting.charts import pngs
from tunetrail.reporting.html import PageTemplate, picture_address
from tunetrail.reporting.readable import counted, duration, readable

# Sharp on screens with two dots to a pixel.
_DPI = 200
_SHOWN_EXAMPLES = 4
_MOST_ANSWERS = 20
_MOST_TOKENS = 15
_LABEL_CHARACTERS = 40
_EXAMPLE_LISTS = {
    "fixes": "Fixed: wrong before, right now",
    "breaks": "Broken: right before, wrong now",
    "worst": "The worst rows of the candidate",
}


@dataclass(frozen=True, kw_only=True)
class EvaluationReportPage:
    """The page of a run, and what it shows as files of their own.

    Attributes:
        html: The page.
        pictures: The PNGs by model type and name.
        metrics: The metrics by model type.
    """

    html: str
    pictures: Mapping[str, Mapping[str, bytes]]
    metrics: Mapping[str, Sequence[MetricLine]]


def render_report(report: RunReport) -> EvaluationReportPage:
    """Return the report as the text of one HTML file, with its pictures and tables."""
    pictures, metrics, sections = {}, {}, []
    for model in report.models:
        of_model = pngs(report_figures(model), _DPI)
        lines = metric_lines(model)
        pictures[model.model_type], metrics[model.model_type] = of_model, lines
        sections.append(_section(model, of_model, lines))
    html = _TEMPLATE.render(report=report, sections=sections, shown_examples=_SHOWN_EXAMPLES)
    return EvaluationReportPage(html=html, pictures=pictures, metrics=metrics)


def _section(
    model: ModelReport, pictures: Mapping[str, bytes], lines: Sequence[MetricLine]
) -> dict[str, Any]:
    """Return what the template shows of a model type."""
    comparison, deployment = model.comparison, model.steps.get("deployment", {})
    texts = alternative_texts(list(pictures), model)
    confusion = None if model.rows is None else label_confusion(model.rows)
    result = model.cross_validation

    colours = map_groups(model, None)
    slices = model.slices
    losing = 0 if slices is None else int((slices["corrected_upper"] < 0.0).sum())

    return {
        "model": model,
        "comparison": comparison,
        "against": model_in_words(model.against),
        "promoted": deployment.get("promote"),
        "version": deployment.get("version"),
        "decision": _decision(model),
        "metrics": lines,
        "facts": list(_facts(model)),
        "pictures": {
            name: (texts[name], picture_address(picture)) for name, picture in pictures.items()
        },
        "map_colour": "what became of the row" if colours is None else colours[0],
        "gain": None if result is None or result.gain is None else result.gain.sentence,
        "folds_without_gain": result is not None and result.gain is None,
        "slices": _slice_lines(slices),
        "slice_count": 0 if slices is None else len(slices),
        "losing_slices": losing,
        "changes": model.steps["comparison"].get("error_analysis") or model.examples,
        "examples": _example_lists(model),
        "confusions": [] if confusion is None else most_confused(confusion).to_dict("records"),
        "answers": _answers(model.answers),
        "tokens": _costliest(model.tokens),
        "sessions": model.forgetting,
    }


def _decision(model: ModelReport) -> str:
    deployment = model.steps.get("deployment")
    if deployment is None:
        # A run that was told to end after its evaluation.
        label = metric_named(model.comparison.metric).label
        return (
            f"Not decided: {label} is {model.comparison.after:.4f} against "
            f"{model.comparison.before:.4f} of {model_in_words(model.against)} "
            f"({interval_with_level(model.comparison)}). The run ended before its deployment."
        )

    return decision_text(
        model.comparison,
        against=model.against,
        promoted=deployment["promote"],
        waiting=deployment.get("decision") == "waiting",
        reason=deployment["reason"],
    )


def _facts(model: ModelReport) -> Any:
    """Yield names and values of what was trained, as far as the run kept it."""
    training, evaluation = (model.steps.get(name, {}) for name in ("training", "evaluation"))
    if training.get("base_model"):
        yield "base model", training["base_model"]
    if training.get("started_from"):
        yield "started from", model_in_words(training["started_from"])

    sides = evaluation.get("split", {}).get("rows", {})
    if sides:
        yield "rows", ", ".join(f"{rows:,} {side}" for side, rows in sides.items())
    if model.comparison.documents:
        yield "documents ranked", f"{model.comparison.documents:,}"

    if "steps" in training:
        early = ", stopped early" if training.get("stopped_early") else ""
        epochs = counted(training.get("epochs", 1), "epoch")
        yield "training", f"{counted(training['steps'], 'step')}, {epochs}{early}"
    if training.get("best_step") is not None:
        yield "weights chosen", f"step {training['best_step']:,}, by {training['monitor']}"

    if "seconds" in training:
        yield "time of the training", duration(training["seconds"])
    if training.get("precision"):
        yield "precision", training["precision"]


def _slice_lines(slices: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return the slices that the table shows, the surest loss first."""
    if slices is None:
        return []
    lines: list[dict[str, Any]] = slices.head(MOST_SLICES).to_dict("records")
    for line in lines:
        line["name"] = slice_name(line["attribute"], str(line["value"]))
    return lines


def _example_lists(model: ModelReport) -> list[dict[str, Any]]:
    """Return the lists of rows, each with its title and the rows as the template shows them."""
    if model.examples is None:
        return []
    lists = []
    for name, title in _EXAMPLE_LISTS.items():
        examples = [_example(row, model) for row in model.examples.get(name, [])]
        lists.append({"title": title, "examples": examples})
    return lists


def _example(row: Mapping[str, Any], model: ModelReport) -> dict[str, Any]:
    """Return what the page shows of one example: what changed in it, and its titled texts."""
    metric = metric_named(model.comparison.metric)
    changes = []
    if row.get("reference_best_rank") is not None and row.get("best_rank") is not None:
        changes.append(f"rank {row['reference_best_rank']:,.0f} → {row['best_rank']:,.0f}")
    if row.get("predicted_label") is not None:
        names = ("reference_predicted_label", "predicted_label", "label")
        before, after, label = (readable(row.get(name), _LABEL_CHARACTERS) for name in names)
        changes.append(f"predicted {before or 'unknown'} → {after}, label {label}")
    if metric.per_example and not changes:
        # The examples hold values of which higher is better: the sign is turned back.
        sign = 1.0 if metric.higher_is_better else -1.0
        changes.append(f"{metric.label} {sign * row['before']:.3f} → {sign * row['after']:.3f}")

    texts = _content(row.get("content"))
    answers = {
        "first_instead": "ranked first instead",
        "reference_written": "written before",
        "written": "written now",
    }
    for name, title in answers.items():
        if row.get(name) is not None:
            texts.append((title, row[name]))
    return {"row_id": row.get("row_id"), "changes": "; ".join(changes), "texts": texts}


def _content(content: str | None) -> list[tuple[str, str]]:
    """Return the texts of a row by column; a content that was cut off stays one text."""
    if content is None:
        return []
    try:
        columns = json.loads(content)
    except ValueError:
        return [("content", content)]

    texts = []
    for column, value in columns.items():
        if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
            for turn in value:
                texts.append((str(turn.get("role", column)), str(turn.get("content", ""))))
        else:
            texts.append((column, value if isinstance(value, str) else json.dumps(value)))
    return texts


def _answers(answers: pd.DataFrame | None) -> list[dict[str, Any]]:
    return [] if answers is None else answers.head(_MOST_ANSWERS).to_dict("records")


def _costliest(tokens: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Return the tokens that cost the candidate the most bits, with the text around them."""
    if tokens is None:
        return []
    # Of tokens that only the older model's tokenizer has, the candidate has no bits.
    bits = pd.to_numeric(tokens["bits_after"]).dropna()
    costliest = tokens.loc[bits.sort_values(ascending=False, kind="stable").index]
    lines: list[dict[str, Any]] = costliest.head(_MOST_TOKENS).to_dict("records")
    return lines


def _number(value: float | None, form: str = ".4f") -> str:
    """Return a number in a form; `-` if there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    # More digits of a perplexity would say nothing.
    return f"{value:,.1f}" if abs(value) >= 100.0 else format(value, form)


def _range(bounds: Sequence[float | None], form: str = ".4f") -> str:
    """Return both bounds of an interval; an empty text if there is none."""
    lower, upper = bounds
    if lower is None or upper is None or math.isnan(lower) or math.isnan(upper):
        return ""
    return f"{_number(lower, form)} … {_number(upper, form)}"


_TEMPLATE = PageTemplate(
    Path(__file__).with_name("run.html"),
    {
        "number": _number,
        "signed": lambda value: _number(value, "+.4f"),
        "range": lambda bounds: _range(bounds, ".3f"),
        "signed_range": lambda bounds: _range(bounds, "+.4f"),
    },
)
