"""Reports of runs: what a run kept in MLflow becomes one HTML page, without a model."""

import datetime
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from tunetrail.config import TrackingConfig
from tunetrail.errors import UserError, first_line, one_line
from tunetrail.evaluation.embedding_map import MAP_ARTIFACT, read_embedding_map
from tunetrail.evaluation.example_rows import ROWS_ARTIFACT, read_example_rows
from tunetrail.evaluation.report.page import EvaluationReportPage, render_report
from tunetrail.evaluation.report.run_report import STEPS, ModelReport, RunReport
from tunetrail.evaluation.report.tables import metric_table
from tunetrail.paths import write_private_text
from tunetrail.reporting.readable import shown_moment
from tunetrail.scratch import scratch_folder
from tunetrail.stores.runs.model_references import EvaluatedRun, find_evaluated_run
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker, existing_store, shown_uri

logger = logging.getLogger(__name__)

REPORT_ARTIFACT = "report/report.html"
"""Path of the page among the artifacts of its run; its pictures and tables lie next to it."""

COMPARISON_ARTIFACT = "steps/comparison.json"
"""The artifact by which an evaluated run is recognised, however old."""

FOLDER = REPORT_ARTIFACT.partition("/")[0]
_SLICES, _EXAMPLES = "evaluation/slices.csv", "evaluation/examples.json"
_ANSWERS, _TOKENS = "answers.json", "evaluation/tokens.json"
# What a run of an older version lacks, in words.
_MISSING = {
    ROWS_ARTIFACT: "the scores of each row, without which further metrics and the folds have no "
    "intervals",
    _SLICES: "slices",
    _EXAMPLES: "examples of fixed and broken rows",
}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Page:
    """The report of a run: the run's id in MLflow, and the text of the page."""

    run_id: str
    html: str


def read_page(run: str, *, tracking_uri: str | None = None) -> Page:
    """Return the report of a run as one HTML page.

    Args:
        run: The id of a run, its beginning or the name, of a whole training or of one model type in
            it; a version (`embedding/3`); or an alias (`embedding@root`).
        tracking_uri: The MLflow store; by default `sqlite:///mlflow.db`.

    Raises:
        UserError: There is no such run, or it wasn't evaluated.
        TrackingError: The store can't be reached or read.
    """
    tracker = existing_store(tracking_uri or TrackingConfig().uri)
    evaluated = find_evaluated_run(tracker, run, COMPARISON_ARTIFACT)
    html = render_report(read_report(tracker, evaluated)).html
    return Page(run_id=evaluated.run_id, html=html)


def try_to_log_report(run: TrackedRun) -> str | None:
    """Write the report of an evaluated run, and return where it is; warn if it can't be written."""
    try:
        return log_report(run)
    # Root has moved and the results are there: a page that can be drawn again must not fail a run.
    except Exception as error:
        logger.warning(
            "the report can't be written: %s. Write it later: `tunetrail report %s`",
            one_line(error),
            run.run_id,
        )
        return None


def log_report(run: TrackedRun) -> str:
    """Write the report of an evaluated run to its artifacts: the page, its pictures and tables.

    Returns:
        The page's path on this machine, or its address if a server keeps it.
    """
    tracker = run.tracker
    evaluated = find_evaluated_run(tracker, run.run_id, COMPARISON_ARTIFACT)
    rendered = render_report(read_report(tracker, evaluated))
    with scratch_folder() as folder:
        page = folder / Path(REPORT_ARTIFACT).name
        write_private_text(page, rendered.html)
        # By itself: MLflow gives the files of a folder the permissions that are usual here.
        run.log_artifact(page, FOLDER)
        for model_type in rendered.pictures:
            run.log_artifact(_write_parts(rendered, model_type, folder), FOLDER)
    return run.artifact_location(REPORT_ARTIFACT)


def _write_parts(rendered: EvaluationReportPage, model_type: str, folder: Path) -> Path:
    """Write the pictures and the metrics of a model type to a folder of its own, and return it."""
    of_type = folder / model_type
    of_type.mkdir()
    for name, picture in rendered.pictures[model_type].items():
        (of_type / f"{name}.png").write_bytes(picture)
    metric_table(rendered.metrics[model_type]).to_csv(of_type / "metrics.csv", index=False)
    return of_type


def read_report(tracker: Tracker, evaluated: EvaluatedRun) -> RunReport:
    """Return what an evaluated run kept in MLflow, as its report shows it."""
    models = []
    with scratch_folder() as folder:
        for model_type, run_id in evaluated.run_ids.items():
            models.append(_read_model(tracker.run(run_id), model_type, folder))

    # Commands in this folder find the default store without being told.
    default = Path(TrackingConfig().uri.removeprefix("sqlite:///")).resolve()
    uri = tracker.config.uri
    option = "" if uri == f"sqlite:///{default}" else f" --uri {shown_uri(uri)}"
    return RunReport(
        name=evaluated.name,
        run_id=evaluated.run_id,
        started=_moment(evaluated.started),
        models=models,
        tracking_option=option,
    )


def _moment(milliseconds: int | None) -> str:
    """Return the time of MLflow in UTC, for people."""
    if milliseconds is None:
        return ""
    moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.UTC)
    return f"{shown_moment(moment)} UTC"


def _read_model(run: TrackedRun, model_type: str, folder: Path) -> ModelReport:
    """Return what the run of a model type kept."""
    artifacts = {*run.artifacts(), *run.artifacts("steps"), *run.artifacts("evaluation")}
    missing = [words for artifact, words in _MISSING.items() if artifact not in artifacts]

    def read(artifact: str, parse: Callable[[Path], T]) -> T | None:
        """Return a parsed artifact; None if the run lacks it, or it is broken."""
        if artifact not in artifacts:
            return None
        try:
            return parse(run.download(artifact, folder))
        # A file that another program wrote must not hide what the others say.
        except (UserError, ValueError) as error:
            missing.append(f"{artifact}, which can't be read: {first_line(error)}")
            return None

    steps: dict[str, Mapping[str, Any]] = {}
    for name in STEPS:
        step = read(f"steps/{name}.json", _read_json)
        if step is not None:
            steps[name] = step
    if "comparison" not in steps:
        raise UserError(
            f"run must have a readable {COMPARISON_ARTIFACT}, got {missing[-1]}. Name another run."
        )

    return ModelReport(
        model_type=model_type,
        run_id=run.run_id,
        steps=steps,
        rows=read(ROWS_ARTIFACT, read_example_rows),
        slices=read(_SLICES, pd.read_csv),
        examples=read(_EXAMPLES, _read_json),
        answers=read(_ANSWERS, _read_table),
        tokens=read(_TOKENS, _read_table),
        embedding_map=read(MAP_ARTIFACT, read_embedding_map),
        missing=missing,
    )


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_table(path: Path) -> pd.DataFrame:
    """Return a table of MLflow's pages."""
    # Not by pandas' reader, which takes texts that look like numbers or dates for these.
    table = _read_json(path)
    return pd.DataFrame(table["data"], columns=table["columns"], dtype=object)
