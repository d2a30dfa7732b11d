"""`tunetrail prepare`: validate, clean and split into files to look at before training."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tunetrail.cli.composed_run import NO_HYDRA_FILES, run_composed
from tunetrail.cli.conf_groups import groups_help
from tunetrail.cli.key_help import asks_for_help
from tunetrail.cli.output import show
from tunetrail.config import TrainRequest, checked_session_ids
from tunetrail.errors import ConfigError
from tunetrail.imports import importing
from tunetrail.reporting.readable import counted

if TYPE_CHECKING:
    from tunetrail.data.flow.prepared import PreparedSession

DEFAULT_FOLDER = "output_dir='prepared/${tunetrail.name:${session_id}}'"
"""The folder of a session's files; Hydra reads a value within a value in quotes only."""
_SHOWN_REASONS = 8


def prepare(arguments: list[str]) -> int:
    """Run `tunetrail prepare` with Hydra's arguments.

    Raises:
        SampleError: An error finding of the validation stopped the preparation.
    """
    if asks_for_help(arguments, help_text()):
        return 0
    # The jobs of a sweep would write into the same folder.
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError(
            "prepare takes one session and one configuration, got -m. Call it once for each."
        )

    # Importing torch and MLflow takes seconds, in which nothing else would be shown. Hydra's own
    # options, which print a configuration, import neither.
    if not any(argument.startswith("-") for argument in arguments):
        print("prepare: loading the libraries ...", file=sys.stderr, flush=True)
    defaults = [DEFAULT_FOLDER, *NO_HYDRA_FILES]
    run_composed(arguments, _prepare_one, job_name="prepare", defaults=defaults)
    return 0


def help_text() -> str:
    """Return what `tunetrail prepare --help` prints."""
    return "\n".join([_HELP, *groups_help()])


_HELP = """\
usage: tunetrail prepare session_id=ID|[ID,ID] [output_dir=DIR] [model_type=embedding|llm|all]
                         [GROUP=OPTION ...] [KEY=VALUE ...]

Validates, cleans and splits the rows of a session, or of several, without training, and writes
these files into DIR (default: prepared/ID, for several sessions prepared/ID+ID):
  rows/train.parquet, rows/validation.parquet, rows/test.parquet
  rows/replayed.parquet   with replay: the rows of earlier sessions that are learnt again
  set_aside.parquet   row_id, step, reason, before, after: every row that was taken out
  changes.parquet     the same columns: every row that was changed and stays
  flags.parquet       row_id, check, detail: every row that a check has flagged
  report.html         all of the above for people; summary.json for programs

  --json      print one JSON object on stdout, and text on stderr (docs/python.md)
  --quiet     print warnings and errors only, on stderr; and JSON with --json

Exit code: 0, or 2 if an error finding of the validation stops it (the files are written anyway).

examples:
  tunetrail prepare session_id=s1 output_dir=look
  tunetrail prepare session_id=[s1,s2]
  tunetrail prepare session_id=s1 validation=strict cleaning.length=truncate
  tunetrail prepare session_id=s1 validation.rows.language.severity=error
"""


def _prepare_one(request: TrainRequest, overrides: Sequence[str]) -> Mapping[str, Any]:
    with importing():
        from tunetrail.node.preparation import prepare_request
        from tunetrail.stores.database.manager import DatabaseManager

    folder = Path(request.output_dir)
    call = {"session_id": request.session_id, "model_type": request.model_type}
    with DatabaseManager(request.database.url) as manager:
        session = prepare_request(request, manager, call, folder)
        session_ids = checked_session_ids(request.session_id)
        rejected = sum(manager.session_summary(name).rejected for name in session_ids)

    # Printed before the error: the account shows what led to it.
    show(
        lambda: {**session.to_dict(), "rejected": rejected},
        lambda: _print_account(session, rejected),
    )
    session.check_usable()
    return {}


def _print_account(session: "PreparedSession", rejected: int) -> None:
    """Print what became of the rows in each step, and what the checks found."""
    from tunetrail.data.flow.prepared import ACCOUNT_COLUMNS

    console = Console()
    table = Table(ACCOUNT_COLUMNS[0], box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ACCOUNT_COLUMNS[1:]:
        table.add_column(name, justify="right")
    for cells in session.account_rows():
        table.add_row(*cells)
    console.print(table)

    # A terminal that shows both streams has shown the warnings already.
    is_logged = sys.stdout.isatty() and sys.stderr.isatty()
    for line in account_lines(session, rejected, with_warnings=not is_logged):
        # Whole lines can be copied and searched; brackets of a reason are no markup.
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def account_lines(
    session: "PreparedSession", rejected: int, *, with_warnings: bool = True
) -> Iterator[str]:
    """Yield what was set aside and found, and how the rows were split."""
    for step in session.account:
        reasons = list(step.reasons.items())
        for reason, count in reasons[:_SHOWN_REASONS]:
            yield f"{step.step} set aside {count:,}: {reason}"
        if len(reasons) > _SHOWN_REASONS:
            more = len(reasons) - _SHOWN_REASONS
            yield f"{step.step}: {more} more reasons, see report.html"

    if rejected:
        yield (
            f"rejected when it was ingested: {counted(rejected, 'row')} that can't be a sample; "
            "`tunetrail sessions` counts them"
        )
    # In alphabetical order, errors come before warnings.
    for finding in sorted(session.findings, key=lambda finding: finding.severity):
        is_shown = with_warnings or finding.severity != "warning"
        if finding.severity != "passed" and is_shown:
            yield f"{finding.severity}: {finding.check}: {finding.message}"
    for warning in session.warnings if with_warnings else ():
        yield f"warning: split: {warning}"

    sides = ", ".join(f"{side} {rows:,}" for side, rows in session.sides.items())
    yield f"split by {session.method}: {sides}"
    if session.replayed:
        counts = ", ".join(f"{name} {rows:,}" for name, rows in session.replayed.items())
        yield f"rows of earlier sessions that are learnt again: {counts}"
    yield f"report: {session.folder / 'report.html'}"
