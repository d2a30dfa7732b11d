"""The model card: what a model is, for its folder and for MLflow's pages.

The card has the form that the Hugging Face hub reads: YAML with the key figures, then Markdown.
Names of sessions, columns and values are users' text, so nothing of them may become markup.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunetrail.config import BASE, sessions_of_name
from tunetrail.evaluation.decision_text import evidence_in_words, model_in_words
from tunetrail.evaluation.plots import slice_name
from tunetrail.evaluation.report.run_report import ModelReport
from tunetrail.evaluation.report.tables import Bounds, MetricLine, metric_lines
from tunetrail.reporting.readable import as_markdown, shown_interval

CARD = "README.md"
LONGEST_DESCRIPTION = 5000
"""Characters that MLflow's registry keeps of a description."""

_PURPOSES = {
    "embedding": "It turns texts into vectors, for search, clustering and classification: texts "
    "that belong together get similar vectors.",
    "llm": "It writes texts, as in the samples that it has learnt from.",
}
# The library and the task by which the hub sorts models.
_HUB_NAMES = {
    "embedding": ("sentence-transformers", "sentence-similarity"),
    "llm": ("transformers", "text-generation"),
}


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What is known of a model.

    Attributes:
        report: Its scores, and the scores of the version that it was compared with.
        decision: What the gate decided and why, in two sentences.
        base_model: Canonical name of the model that the chain of trainings began with.
        licence: The licence of the base model; None if unknown.
        session: The session that it was trained on, or several in one name.
        sides: Number and digest of the rows of each side of the split.
        started_from: `base`, or the URI of the root that the training began with.
        ancestors: The versions that the training and earlier ones began with, the latest first.
        max_length: Longest text in tokens.
        configuration: The settings of the model type as plain values.
        warnings: What was said of the rows, in sentences.
    """

    report: ModelReport
    decision: str
    base_model: str
    licence: str | None
    session: str
    sides: Mapping[str, tuple[int, str]]
    started_from: str
    ancestors: Sequence[str]
    max_length: int
    configuration: Mapping[str, Any]
    warnings: Sequence[str] = ()

    def to_readme(self) -> str:
        """Return the card as the text of a README.md that hubs read."""
        sections = [*self._sections(), f"## Configuration\n\n{_code_block(self.configuration)}"]
        title = f"# {as_markdown(self.report.model_type)} model of session {self._session}"
        return "\n\n".join([f"---\n{self._front_matter()}\n---", title, *sections]) + "\n"

    def to_description(self) -> str:
        """Return the card as the description of a registered version, without what is too long."""
        text = ""
        for section in self._sections():
            # A half table would be unreadable.
            if len(text) + len(section) + 2 > LONGEST_DESCRIPTION:
                break
            text = f"{text}\n\n{section}" if text else section
        return text

    @property
    def _session(self) -> str:
        return as_markdown(", ".join(sessions_of_name(self.session)))

    def _sections(self) -> Iterator[str]:
        """Yield the sections, the most important first."""
        yield as_markdown(self.decision)
        yield f"## Metrics\n\n{_metric_table(metric_lines(self.report))}"
        yield f"## Purpose\n\n{self._purpose()}"
        yield f"## Data\n\n{self._data()}"
        slices = self._slices()
        if slices:
            yield f"## Slices\n\n{slices}"
        yield f"## Limits\n\n{_bullets(self._limits())}"
        yield f"## Lineage\n\n{self._lineage()}"

    def _purpose(self) -> str:
        purpose = _PURPOSES.get(self.report.model_type, "")
        licence = as_markdown(self.licence) if self.licence else "unknown; look it up before use"
        base = f"Base model: {as_markdown(_shown_base(self.base_model))}, licence: {licence}."
        return f"{purpose}\n\n{base}".strip()

    def _data(self) -> str:
        """Return the rows of each side with their digests, by which they can be recognised."""
        lines = [(side, f"{rows:,}", f"`{digest}`") for side, (rows, digest) in self.sides.items()]
        table = _table(("side", "rows", "digest"), lines)
        kind = "sessions" if len(sessions_of_name(self.session)) > 1 else "session"
        data = f"Samples of the {kind} {self._session}, split before the training:\n\n{table}"
        replayed = self.report.steps.get("training", {}).get("replayed")
        if replayed:
            names = ", ".join(map(as_markdown, replayed["sessions"]))
            data += f"\n\nLearnt again: {replayed['rows']:,} rows of earlier sessions ({names})."
        return data

    def _slices(self) -> str:
        analysis = self.report.steps["comparison"].get("error_analysis") or {}
        lines = []
        for title, name in (("largest loss", "worst_slice"), ("lowest score", "weakest_slice")):
            line = analysis.get(name)
            if line:
                shown = as_markdown(slice_name(line["attribute"], str(line["value"])))
                bounds = _range((line.get("corrected_lower"), line.get("corrected_upper")), "+.4f")
                change = f"{line['improvement']:+.4f} {bounds}".strip()
                lines.append((title, shown, f"{line['rows']:,}", f"{line['after']:.4f}", change))
        return _table(("", "slice", "rows", "score", "improvement"), lines) if lines else ""

    def _limits(self) -> Iterator[str]:
        comparison = self.report.comparison
        is_one = len(sessions_of_name(self.session)) == 1
        yield (
            f"The metrics rest on {evidence_in_words(comparison)} of "
            f"{'one session' if is_one else 'these sessions'}; they hold for texts like these."
        )
        yield f"Of each text, at most {self.max_length:,} tokens are read."

        if comparison.why_no_interval is not None:
            yield f"There is no interval: {comparison.why_no_interval}."
        if comparison.warning is not None:
            yield as_markdown(comparison.warning)

        for name, change in self.report.forgetting.items():
            if change.improvement < 0.0:
                where = f"{as_markdown(name)}: {change.improvement:+.4f}"
                yield f"It has lost on {where} ({change.interval_in_words})."
        yield from map(as_markdown, self.warnings)

    def _lineage(self) -> str:
        name, started_from = self.report.model_type, self.started_from
        steps = [f"{name}/{version}" for version in self.ancestors]
        if started_from != BASE and not steps:
            steps = [model_in_words(started_from)]
        chain = [*map(as_markdown, steps), as_markdown(_shown_base(self.base_model))]
        run = f"MLflow run of the training: `{self.report.run_id}`"
        return f"this model ← {' ← '.join(chain)}\n\n{run}"

    def _front_matter(self) -> str:
        """Return the YAML by which hubs sort and compare models."""
        from huggingface_hub import EvalResult, ModelCardData

        library, task = _HUB_NAMES.get(self.report.model_type, (None, None))
        results = []
        for line in metric_lines(self.report):
            results.append(
                EvalResult(
                    task_type=task or "other",
                    dataset_type="tunetrail-session",
                    dataset_name=self.session,
                    metric_type=line.name,
                    metric_name=line.label,
                    metric_value=round(line.after, 6),
                )
            )
        data = ModelCardData(
            # Hubs link it, so a folder of this machine would be no name.
            base_model=None if Path(self.base_model).is_absolute() else self.base_model,
            license=self.licence,
            library_name=library,
            pipeline_tag=task,
            tags=["tunetrail"],
            model_name=f"{self.report.model_type} of {self.session}",
            eval_results=results,
        )
        return data.to_yaml()


def licence_of(folder: Path) -> str | None:
    """Return the licence that a model's own card names; None if there is none."""
    from huggingface_hub import metadata_load

    try:
        metadata = metadata_load(folder / CARD) or {}
    # A card is prose of others, in which the YAML may be anything.
    except Exception:
        return None
    licence = metadata.get("license") if isinstance(metadata, dict) else None
    return str(licence) if licence else None


def _shown_base(base_model: str) -> str:
    """Return the name of a base model, of a local folder without the path to it."""
    path = Path(base_model)
    return f"{path.name} (a local folder)" if path.is_absolute() else base_model


def _metric_table(lines: Sequence[MetricLine]) -> str:
    rows = []
    for line in lines:
        after = f"{line.after:.4f} {_range(line.after_bounds, '.4f')}".strip()
        before = "" if line.before is None else f"{line.before:.4f}"
        change = ""
        if line.improvement is not None:
            interval = _range(line.improvement_bounds, "+.4f")
            change = f"{line.improvement:+.4f} {interval}".strip()
        rows.append((as_markdown(line.label), after, before, change))
    return _table(("metric", "this model", "compared with", "improvement"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(lines: Iterator[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _range(interval: Bounds, form: str) -> str:
    """Return both bounds in brackets; an empty text if there is no interval."""
    text = shown_interval(*interval, form)
    return f"({text})" if text else ""


def _code_block(content: Mapping[str, Any]) -> str:
    """Return plain values as a block that no text in them can end."""
    text = json.dumps(content, indent=1, ensure_ascii=True, default=str)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}json\n{text}\n{fence}"
