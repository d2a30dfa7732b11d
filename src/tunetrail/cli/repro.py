"""`tunetrail repro`: repeat a run, and say whether metrics and weights are the same."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tunetrail.cli.composed_run import NO_HYDRA_FILES, run_composed
from tunetrail.cli.output import show
from tunetrail.cli.run_arguments import read_run_arguments
from tunetrail.cli.terminal import new_table, print_line, printable, say_loading
from tunetrail.config import TrainRequest
from tunetrail.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from tunetrail.pipeline.reproduction import FamilyReproduction, Reproduction

# Sections that say where the run is; everything else is the run's own.
_STORES = ("database", "tracking")
_FORCE = "--force"
_SHOWN_ROWS = 10
_SHOWN_DIGITS = 16


def repro(arguments: list[str]) -> int:
    """Run `tunetrail repro RUN_ID`; overrides may only say where the stores are."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0

    overrides, options, run_ids = read_run_arguments(
        "repro", arguments, options=(_FORCE,), changeable=_STORES
    )
    if len(run_ids) != 1:
        raise UserError(
            f"repro takes the id of one run, got {', '.join(run_ids) or 'none'}. "
            "`tunetrail runs` lists the runs."
        )

    exit_codes: list[int] = []

    def repeat(request: TrainRequest, overrides: Sequence[str]) -> Mapping[str, Any]:
        reproduction = _reproduce(run_ids[0], request, options)
        show(reproduction.to_dict, lambda: print_reproduction(reproduction))
        exit_codes.append(0 if reproduction.identical else 1)
        return {}

    # The schema demands a session, but the run brings its own: any id will do.
    defaults = ["session_id=repeated", *NO_HYDRA_FILES]
    run_composed(overrides, repeat, job_name="repro", defaults=defaults)
    return exit_codes[0]


def help_text() -> str:
    """Return what `tunetrail repro --help` prints."""
    return """\
usage: tunetrail repro RUN_ID [database.url=URL] [tracking.uri=URI] [--force]

Repeats a run with the settings, rows, root and number of threads that it had, and says whether
its metrics and its trained weights are the same, bit by bit. If they aren't, it names what differs:
packages, machine, lines of code, rows, files of the first model, and the step at which the training
went another way. It takes as long as the run itself.

RUN_ID is the run's id in MLflow, or that of one model type of it; its beginning is enough if no
other run's id begins like that. A job of a sweep is repeated up to its fit. Call it in the folder
in which the run was started, as its paths may be relative.

Nothing is registered, and root stays. The repeated run is below the first one in MLflow, with the
tag tunetrail.reproduces. Rows that have come to the session since are left out. If rows are gone or
have changed, they are named, and nothing is trained.

  --force   repeat the run although rows of it are gone or have changed
  --json    print one JSON object on stdout, and text on stderr (docs/python.md)
  --quiet   print warnings and errors only, on stderr; and JSON with --json

Exit code: 0 if metrics and weights are identical, 1 if not, 2 for a run that can't be repeated.

examples:
  tunetrail repro 0f8fad5b
  tunetrail repro 0f8fad5bd9cb469fa16570867728950e tracking.uri=sqlite:///runs/mlflow.db --json"""


def _reproduce(run_id: str, request: TrainRequest, options: Sequence[str]) -> "Reproduction":
    say_loading("repro")
    # Imported late: help and mistakes in the arguments don't wait for torch.
    from tunetrail.node.reproducing import reproduce
    from tunetrail.stores.database.manager import DatabaseManager
    from tunetrail.stores.resumable_runs import whole_run_id

    # Progress bars must not come between the lines of the JSON.
    with DatabaseManager(request.database.url) as manager, contextlib.redirect_stdout(sys.stderr):
        run_id = whole_run_id(request.tracking, manager, run_id)
        force = _FORCE in options
        return reproduce(run_id, tracking=request.tracking, database=manager, force=force)


def print_reproduction(reproduction: "Reproduction") -> None:
    """Print what differs, the metrics of both runs, and the verdict."""
    from rich.console import Console

    console = Console()
    if reproduction.differences is None:
        print_line(console, "the run kept nothing of its packages, machine and code")
    for difference in reproduction.differences or ():
        print_line(console, difference.in_words)
    for family in reproduction.families:
        _print_family(family, console)

    runs = f"run {reproduction.reproduction_id} repeats {reproduction.run_id}"
    if reproduction.reproduction_id is None:
        print_line(console, "not repeated: rows are gone or have changed (--force repeats it)")
    elif reproduction.identical:
        print_line(console, f"identical: {runs} with the same metrics and weights")
    elif any(family.same_weights is None for family in reproduction.families):
        print_line(console, f"not shown to be identical: {runs}, which kept no digest of weights")
    else:
        print_line(console, f"differs: {runs}")


def _print_family(family: "FamilyReproduction", console: "Console") -> None:
    _print_rows(family, console)
    for difference in family.differences:
        # Rows are many: they are counted and named above.
        if difference.kind != "row":
            print_line(console, f"{family.family}: {difference.in_words}")
    if family.reproduction_id is None:
        return

    table = new_table(family.family, "then", "now", "equal?")
    for pair in family.metrics:
        cells = [pair.name, _number(pair.then), _number(pair.now), _yes_or_no(pair.equal)]
        table.add_row(*(printable(cell, console) for cell in cells))
    digests = map(_shown_digest, family.weights)
    table.add_row("weights (SHA-256)", *digests, _yes_or_no(family.same_weights))
    console.print(table)

    divergence = family.divergence
    if divergence is not None:
        print_line(
            console,
            f"{family.family}: the training goes another way from step {divergence.step} on: "
            f"{divergence.metric} was {_number(divergence.then)}, is {_number(divergence.now)}",
        )


def _print_rows(family: "FamilyReproduction", console: "Console") -> None:
    rows = family.rows
    if rows is None:
        print_line(console, f"{family.family}: the run kept no digests of its rows")
        return
    kinds = {
        "rows that have come since, left out": rows.added,
        "rows that are gone": rows.removed,
        "rows that have changed": rows.changed,
    }
    for what, row_ids in kinds.items():
        if len(row_ids):
            shown = ", ".join(map(str, row_ids[:_SHOWN_ROWS]))
            more = ", ..." if len(row_ids) > _SHOWN_ROWS else ""
            print_line(console, f"{family.family}: {what}: {len(row_ids)} (row ids {shown}{more})")


def _number(value: float | None) -> str:
    """Return a metric with all digits that tell it from its neighbours."""
    return "none" if value is None else repr(value)


def _shown_digest(digest: str | None) -> str:
    return "unknown" if digest is None else digest[:_SHOWN_DIGITS]


def _yes_or_no(equal: bool | None) -> str:
    return "unknown" if equal is None else ("yes" if equal else "NO")
