"""`tunetrail prepare`: validation, cleaning and split alone, into files that a person can look at before training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tunetrail.cli.composition import NO_HYDRA_FILES, TrainRequest, groups_help, run_composed
from tunetrail.errors import ConfigError, SampleError

if TYPE_CHECKING:
    from tunetrail.data.flow.prepared import PreparedSession

_SHOWN_REASONS = 8


def prepare(arguments: list[str]) -> int:
    """Run `tunetrail prepare` with Hydra's arguments; exits with 2 where an error finding stops it."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError(
            "prepare takes one session and one configuration, got -m. Call it once for each."
        )

    defaults = ["output_dir=prepared/${session_id}", *NO_HYDRA_FILES]
    run_composed(arguments, _prepare_one, job_name="prepare", defaults=defaults)
    return 0


def help_text() -> str:
    """Return what `tunetrail prepare --help` prints."""
    return "\n".join(
        [
            "usage: tunetrail prepare session_id=ID [output_dir=DIR] [model_type=embedding|llm|all]",
            "                         [GROUP=OPTION ...] [KEY=VALUE ...]",
            "",
            "Validates, cleans and splits a session's rows, trains nothing, and writes into DIR (prepared/ID):",
            "  rows/train.parquet, rows/validation.parquet, rows/test.parquet",
            "  set_aside.parquet   row_id, step, reason, before, after of every row that was taken out",
            "  changes.parquet     the same of every row that was changed and stays",
            "  flags.parquet       row_id, check, detail: every row that a check is concerned by",
            "  report.html         everything above for people; summary.json for programs",
            "",
            "Exit code: 0, or 2 where an error finding stops it (the files say why all the same).",
            "",
            "examples:",
            "  tunetrail prepare session_id=s1 output_dir=look",
            "  tunetrail prepare session_id=s1 validation=strict cleaning.length=truncate",
            "  tunetrail prepare session_id=s1 validation.rows.language.severity=error",
            "",
            *groups_help(),
        ]
    )


def _prepare_one(request: TrainRequest, overrides: Sequence[str]) -> Mapping[str, Any]:
    from tunetrail.node import ModelTrainingNode, NodeConfig
    from tunetrail.stores.database import DatabaseManager

    folder = Path(request.output_dir)
    with DatabaseManager(request.database.url) as manager:
        summary = manager.session_summary(request.session_id)
        node = ModelTrainingNode(NodeConfig(settings=request), manager)
        session = node.prepare(
            {"session_id": request.session_id, "model_type": request.model_type}, folder
        )
    _print(session, summary.rejected)
    if session.stopped is not None:
        raise SampleError(f"{session.stopped} See {folder / 'report.html'}.")
    return {}


def _print(session: "PreparedSession", rejected: int) -> None:
    console = Console()
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("step")
    for name in ("rows in", "rows out", "set aside", "changed"):
        table.add_column(name, justify="right")
    for step in session.account:
        table.add_row(
            step.step,
            *(f"{each:,}" for each in (step.rows_in, step.rows_out, step.set_aside, step.changed)),
        )
    console.print(table)
    for step in session.account:
        shown = list(step.reasons.items())[:_SHOWN_REASONS]
        for reason, count in shown:
            _line(console, f"{step.step} set aside {count:,}: {reason}")
        if len(step.reasons) > len(shown):
            _line(
                console,
                f"{step.step}: {len(step.reasons) - len(shown)} more reasons, see report.html",
            )
    if rejected:
        _line(
            console,
            f"ingestion kept {rejected:,} rows out that are no samples; `tunetrail sessions` counts them",
        )
    for finding in sorted(session.findings, key=lambda each: each.severity):
        if finding.severity != "passed":
            _line(console, f"{finding.severity}: {finding.check}: {finding.message}")
    for warning in session.warnings:
        _line(console, f"warning: split: {warning}")
    sides = ", ".join(f"{side} {rows:,}" for side, rows in session.sides.items())
    _line(console, f"split by {session.method}: {sides}")
    _line(console, f"report: {session.folder / 'report.html'}")


def _line(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)
