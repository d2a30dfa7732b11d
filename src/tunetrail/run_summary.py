"""RunSummary: what a run was asked for, what came of it, and where its results are.

It is read from what the run kept, without a model and without tensors.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunetrail.config import MODEL_SECTIONS, SET_BY_SWEEP
from tunetrail.config.keys import all_settings
from tunetrail.errors import UserError
from tunetrail.nearest_words import nearest_words
from tunetrail.plain_values import plain_moment, plain_values
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.runs.listed_run import ListedRun
from tunetrail.stores.runs.shown_runs import RunReader, is_training_or_sweep
from tunetrail.stores.tracking.mlflow_pages import run_page
from tunetrail.stores.tracking.run_tags import FAMILY_TAG, SWEEP_TAG

REPORT = "report/report.html"
_CONFIGURATION = "config.json"
# What a run was asked to do, which the summary has anyway, and where the stores are.
_NOT_SETTINGS = ("session_id", "model_type", "database", "tracking", *SET_BY_SWEEP)
_SHOWN_RUNS = 3
_ENDED_EARLY = ("failed", "interrupted", "killed")


@dataclass(frozen=True, kw_only=True)
class ChangedSetting:
    """A setting whose value differs from the schema's default."""

    value: Any
    default: Any


@dataclass(frozen=True, kw_only=True)
class MetricChange:
    """A metric of both models on the test rows.

    Attributes:
        name: The metric's name.
        label: Its name for people.
        before: The value of the version to beat; None if it wasn't measured.
        after: The value of the candidate; None if it wasn't measured.
        after_interval: The interval of `after`; None without one.
        improvement: How much better the candidate is; None for a metric without a direction.
        improvement_interval: The interval of the improvement; None without one.
    """

    name: str
    label: str
    before: float | None
    after: float | None
    after_interval: tuple[float, float] | None
    improvement: float | None
    improvement_interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class WorstRow:
    """A test row that the candidate has wrong.

    Attributes:
        row_id: The row; None if it has no id.
        before: Its quality by the version to beat; higher is better.
        after: Its quality by the candidate.
        content: Its columns as JSON, without personal data; empty if the run didn't keep them.
    """

    row_id: int | None
    before: float
    after: float
    content: str


@dataclass(frozen=True, kw_only=True)
class FamilySummary:
    """What a run came to for one model type.

    Attributes:
        model_type: The model type.
        run_id: The run in MLflow that trained it.
        decision: `promoted`, `refused` or `waiting`; None before the decision.
        reason: Why, in words; None before the decision.
        version: The registered version, such as `embedding/3`; None before.
        is_root: Whether this version is root now.
        root: The version that is root now, such as `embedding/2`; None without one.
        exported_to: The folder that holds the version while it is root; None if it isn't root.
        comparison: The primary metric of both models, the interval and the rows; None before.
        metrics: All metrics, the primary one first.
        sessions: The improvement by session, if it learnt from several or replayed earlier ones.
        worst_rows: The worst test rows, the worst first.
        checkpoint: The last checkpoint, if it is still there.
    """

    model_type: str
    run_id: str
    decision: str | None
    reason: str | None
    version: str | None
    is_root: bool
    root: str | None
    exported_to: str | None
    comparison: Mapping[str, Any] | None
    metrics: tuple[MetricChange, ...]
    sessions: Mapping[str, Mapping[str, Any]]
    worst_rows: tuple[WorstRow, ...]
    checkpoint: str | None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run was asked for, what came of it, and where its results are.

    Attributes:
        run_id: The run in MLflow.
        name: Its name.
        kind: `training` or `sweep`.
        state: `running`, or how it ended.
        reason: Why it ended like that; None without a reason.
        session: The session that it learns from, or several.
        model_type: What it trains.
        started: When it started, as ISO 8601 in UTC.
        seconds: How long it took; None while it runs.
        sweep: The run of the sweep that it is a job of; None if it is none.
        configuration: The settings that differ from the schema's defaults, by key.
        families: What came of each model type that has begun.
        page: The address of the run in MLflow's pages.
        report: The report, if it was written.
        artifacts: The folder or address of its artifacts.
        next_command: What continues or shows it; None if nothing is left to do.
    """

    run_id: str
    name: str
    kind: str
    state: str
    reason: str | None
    session: str | None
    model_type: str | None
    started: str
    seconds: float | None
    sweep: str | None
    configuration: Mapping[str, ChangedSetting]
    families: Mapping[str, FamilySummary]
    page: str
    report: str | None
    artifacts: str
    next_command: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values."""
        return plain_values(self)


def summarize_run(reader: RunReader, reference: str, *, page_address: str) -> RunSummary:
    """Return the summary of the training or sweep that a reference names.

    Args:
        reader: The store of the run.
        reference: The id of a run or its beginning; a name; a version (`embedding/3`); or an alias
            (`embedding@root`). A run below a training stands for the training.
        page_address: The address of MLflow's pages.

    Raises:
        UserError: There is no such run, or there are several.
    """
    run = find_training_or_sweep(reader, reference)
    is_sweep = SWEEP_TAG in run.tags
    settings = _read_json(reader, run, _CONFIGURATION) or {}
    families = {} if is_sweep else _families(reader, run, settings)
    state, reason = _state(run)

    # Eight characters of an id are enough for every command.
    next_command = None
    if is_sweep:
        next_command = f"tunetrail sweep show {run.run_id[:8]}"
    elif state in _ENDED_EARLY:
        next_command = f"tunetrail resume {run.run_id[:8]}"
    has_report = reader.read_text(run, REPORT) is not None
    return RunSummary(
        run_id=run.run_id,
        name=run.name,
        kind="sweep" if is_sweep else "training",
        state=state,
        reason=reason,
        session=run.tags.get("tunetrail.session_id"),
        model_type=run.tags.get("tunetrail.model_type"),
        started=plain_moment(run.started),
        seconds=run.seconds,
        sweep=run.parent_run_id,
        configuration=dict(changed_settings(settings, run.tags.get("tunetrail.model_type"))),
        families=families,
        page=run_page(page_address, run.experiment_id, run.run_id),
        report=reader.location(run, REPORT) if has_report else None,
        artifacts=reader.location(run),
        next_command=next_command,
    )


def find_training_or_sweep(reader: RunReader, reference: str) -> ListedRun:
    """Return the training or sweep that a reference names; raises `UserError` if it isn't one."""
    trainings: dict[str, ListedRun] = {}
    for run in reader.find(reference):
        above: ListedRun | None = run
        # A fold and one model type of several are below the training.
        while above is not None and not is_training_or_sweep(above):
            above = reader.run(above.parent_run_id) if above.parent_run_id else None
        if above is not None:
            trainings[above.run_id] = above

    if len(trainings) == 1:
        return next(iter(trainings.values()))
    if trainings:
        shown = ", ".join(run_id[:8] for run_id in list(trainings)[:_SHOWN_RUNS])
        raise UserError(
            f"RUN must be one run, got {reference!r}, which names {len(trainings)}. "
            f"Give more of the id: {shown}."
        )
    nearest = nearest_words(reference, reader.names(), most=_SHOWN_RUNS)
    hint = f"Did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""
    raise UserError(
        "RUN must be a run's id or its beginning, its name, a version such as embedding/3, or an "
        f"alias such as embedding@root, got {reference!r}. {hint}`tunetrail runs` lists the runs."
    )


def _state(run: ListedRun) -> tuple[str, str | None]:
    """Return the state of a run and the reason; a killed process couldn't write its own."""
    process = ProcessIdentity.from_tags(run.tags)
    if run.state == "running" and process is not None and process.is_dead():
        return "interrupted", f"process {process.pid} has ended without marking the run"
    return run.state, run.tags.get("tunetrail.reason")


def changed_settings(
    settings: Mapping[str, Any], model_type: str | None = None, prefix: str = ""
) -> Iterator[tuple[str, ChangedSetting]]:
    """Yield the settings of a run that differ from the defaults, by key.

    Args:
        settings: All of its settings.
        model_type: What it trains; the trainings of other models are left out.
        prefix: The section that the settings are from, and a dot.
    """
    trains_all = model_type not in MODEL_SECTIONS
    known = all_settings()
    for name, value in settings.items():
        key = f"{prefix}{name}"
        setting = known.get(key)
        # Another version of tunetrail may have other keys.
        if setting is None or key in _NOT_SETTINGS:
            continue
        section, _, rest = key.partition(".")
        if rest == "training" and not trains_all and section != model_type:
            continue
        if setting.is_section:
            yield from changed_settings(value, model_type, f"{key}.")
        elif value != setting.default:
            yield key, ChangedSetting(value=value, default=setting.default)


def _families(
    reader: RunReader, run: ListedRun, settings: Mapping[str, Any]
) -> dict[str, FamilySummary]:
    """Return what came of each model type that has begun, in the order of their runs."""
    families = {}
    # A training of one model type is its family's run itself.
    for family_run in [run, *reader.below(run.run_id)]:
        model_type = family_run.tags.get(FAMILY_TAG)
        if model_type is not None:
            families[model_type] = _family(reader, run, family_run, model_type, settings)
    return families


def _family(
    reader: RunReader,
    run: ListedRun,
    family_run: ListedRun,
    model_type: str,
    settings: Mapping[str, Any],
) -> FamilySummary:
    """Return what a run and its files tell of one model type."""
    deployment = _read_json(reader, family_run, "steps/deployment.json") or {}
    comparison = _read_json(reader, family_run, "steps/comparison.json")
    examples = _read_json(reader, family_run, "evaluation/examples.json") or {}

    name = deployment.get("name", model_type)
    root = reader.root_version(name)
    version = deployment.get("version")
    is_root = version is not None and version == root

    # Its own sessions if there are several, and the earlier ones on which it was compared.
    of_sessions = comparison or {}
    sessions = {**of_sessions.get("sessions", {}), **of_sessions.get("earlier_sessions", {})}
    folder = Path(settings.get("output_dir", "")) / family_run.run_id
    checkpoint = folder / "fit" / "checkpoints" / "last.ckpt"

    return FamilySummary(
        model_type=model_type,
        run_id=family_run.run_id,
        decision=deployment.get("decision"),
        reason=deployment.get("reason"),
        version=f"{name}/{version}" if version else None,
        is_root=is_root,
        root=f"{name}/{root}" if root else None,
        exported_to=deployment.get("exported_to") if is_root else None,
        comparison=comparison,
        metrics=tuple(_metrics(reader.read_text(run, f"report/{model_type}/metrics.csv"))),
        sessions=sessions,
        worst_rows=tuple(_worst_rows(examples)),
        checkpoint=str(checkpoint) if checkpoint.is_file() else None,
    )


def _metrics(table: str | None) -> Iterator[MetricChange]:
    """Yield the lines of the report's table of metrics."""
    for line in csv.DictReader(io.StringIO(table or "")):
        yield MetricChange(
            name=line["metric"],
            label=line["label"],
            before=_number(line["before"]),
            after=_number(line["after"]),
            after_interval=_interval(line, "after"),
            improvement=_number(line["improvement"]),
            improvement_interval=_interval(line, "improvement"),
        )


def _interval(line: Mapping[str, str], name: str) -> tuple[float, float] | None:
    lower, upper = _number(line[f"{name}_lower"]), _number(line[f"{name}_upper"])
    return None if lower is None or upper is None else (lower, upper)


def _number(text: str) -> float | None:
    return float(text) if text else None


def _worst_rows(examples: Mapping[str, Any]) -> Iterator[WorstRow]:
    for row in examples.get("worst", []):
        yield WorstRow(
            row_id=row["row_id"],
            before=row["before"],
            after=row["after"],
            content=row.get("content", ""),
        )


def _read_json(reader: RunReader, run: ListedRun, artifact: str) -> dict[str, Any] | None:
    """Return a JSON artifact; None if the run hasn't written it, or it is broken."""
    text = reader.read_text(run, artifact)
    try:
        return None if text is None else dict(json.loads(text))
    except ValueError:
        return None
