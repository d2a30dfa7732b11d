"""`tunetrail report`: write the page of a run from what the run kept."""

import argparse
from pathlib import Path

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options, show
from tunetrail.cli.store_options import add_uri
from tunetrail.cli.terminal import say_loading
from tunetrail.errors import UserError, not_writable
from tunetrail.paths import write_private_text

_DESCRIPTION = """\
Write the report of a run as one HTML page that needs no network: what was decided and why, metrics
with intervals, curves, folds, slices, rows that were fixed and broken, and a map of the embedding
space. No model is loaded, and nothing is computed that needs one. The page's path is printed.

RUN is one of:
  the id of a run, its beginning, or the name: of a training, or of one model type in it
  a version: embedding/3 or models:/embedding/3
  an alias: embedding@root

Each training writes this page at its end, as the artifact report/report.html of its run."""

_EPILOG = """\
exit code: 0; 2 if there is no such run, or it wasn't evaluated

examples:
  tunetrail report embedding@root
  tunetrail report 0f8fad5bd9cb469fa16570867728950e --html report.html"""


def report(arguments: list[str]) -> int:
    """Write the page of a run, and print its path."""
    options = _parse(arguments)
    say_loading("report")
    # Imported only after parsing: --help doesn't wait for MLflow.
    from tunetrail.run_reports import read_page

    page = read_page(options.run, tracking_uri=options.uri)
    path = Path(options.html or f"report-{page.run_id}.html")
    if path.is_dir():
        raise UserError(f"--html must be a file, got the folder {str(path)!r}. Name a file in it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private_text(path, page.html)
    except OSError as error:
        raise not_writable("--html", path, error) from error
    show(lambda: {"run_id": page.run_id, "report": str(path)}, lambda: print(path))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="one run, see above")
    html_help = "where the page goes (default: report-ID.html in this folder)"
    parser.add_argument("--html", metavar="FILE", help=html_help)
    add_output_options(parser)
    add_uri(parser)
    return parser.parse_args(arguments)
