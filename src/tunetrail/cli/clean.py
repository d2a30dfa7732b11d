"""`tunetrail clean`: remove what no run, no rollback and no resume needs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunetrail.cache import ResultCache
from tunetrail.cli.command_parser import CommandParser, like_setting
from tunetrail.cli.output import add_output_options, show
from tunetrail.cli.store_options import add_database, add_uri
from tunetrail.cli.terminal import new_table, printable, say, say_loading
from tunetrail.config import (
    PreparationConfig,
    RetentionConfig,
)
from tunetrail.paths import cache_dir

if TYPE_CHECKING:
    from tunetrail.deployment.clean import Item

_DESCRIPTION = """\
Remove what nothing needs any more, and say what went:

  version      versions of a model beyond the newest, with their files and the artifacts of their
               runs; parameters and metrics of the runs stay, and so does the ledger
  model        models in MLflow that belong to no version, such as one deleted in MLflow's pages
  checkpoints  folders of runs that have succeeded, or that nobody has resumed for a while
  log          Hydra's folders of commands from long ago
  cache        cached results and converted models that nothing has used for a while, and results
               that were never finished
  leftover     temporary folders of dead processes

Root, the root that a rollback goes back to, the newest version, versions that wait for an approval
or have another alias, and what runs need that go on or can be resumed, always stay."""

_EPILOG = """\
exit code: 0; 1 if something couldn't be removed; 2 for an option that can't be used

examples:
  tunetrail clean --dry-run
  tunetrail clean --keep-versions 5 --keep-days 90
"""
_KEEP_VERSIONS = 3


def clean(arguments: list[str]) -> int:
    """Run `tunetrail clean`."""
    options = _parse(arguments)
    say_loading("clean")
    # Imported only after parsing: --help doesn't wait for MLflow.
    from tunetrail.deployment.clean import Cleaner, remove_all
    from tunetrail.stores.database.manager import DatabaseManager
    from tunetrail.stores.tracking.tracker import tracker_if_present

    cache = ResultCache(
        folder=Path(options.cache_dir) / "results", gigabytes=PreparationConfig().cache_gigabytes
    )
    with DatabaseManager(options.database) as database:
        cleaner = Cleaner(
            database=database,
            tracker=tracker_if_present(options.uri),
            model_dir=Path(options.model_dir).absolute(),
            output_dir=Path(options.output_dir).absolute(),
            cache=cache,
            keep_versions=options.keep_versions,
            keep_days=options.keep_days,
        )
        kept, items = cleaner.kept(), cleaner.items()
        removed, failures = ([], []) if options.dry_run else remove_all(items)

    shown = items if options.dry_run else removed
    report = {
        "dry_run": options.dry_run,
        "items": [item.to_dict() for item in shown],
        "bytes": _total(shown),
        "kept": kept,
        "failures": failures,
    }
    show(
        lambda: report,
        lambda: _print_report(shown, kept, failures, is_dry_run=options.dry_run),
    )
    return 1 if failures else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail clean",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    dry_run_help = "list what would be removed, with its size, and remove nothing"
    parser.add_argument("--dry-run", action="store_true", help=dry_run_help)
    add_output_options(parser)
    versions_help = "how many versions of each model stay (default: %(default)s)"
    parser.add_argument(
        "--keep-versions",
        type=like_setting(RetentionConfig, "keep_versions", int),
        default=_KEEP_VERSIONS,
        metavar="N",
        help=versions_help,
    )
    days_help = (
        "for how many days runs that failed can be resumed, and logs and cached results stay "
        "(default: %(default)s)"
    )
    parser.add_argument(
        "--keep-days",
        type=like_setting(RetentionConfig, "keep_days", int),
        default=RetentionConfig().keep_days,
        metavar="N",
        help=days_help,
    )

    add_database(parser, "database of runs and ledger")
    add_uri(parser)
    folders = {
        "--model-dir": ("models", "folder of the exported models"),
        "--output-dir": ("training_output", "folder of runs that can be resumed, and of logs"),
        "--cache-dir": (str(cache_dir()), "folder of cached results"),
    }
    for option, (default, text) in folders.items():
        parser.add_argument(
            option, default=default, metavar="FOLDER", help=f"{text} (default: %(default)s)"
        )
    return parser.parse_args(arguments)


def _total(items: "list[Item]") -> int:
    return sum(item.bytes for item in items)


def _print_report(
    items: "list[Item]", kept: dict[str, str], failures: list[str], *, is_dry_run: bool
) -> None:
    from rich.console import Console

    console = Console()
    if items:
        table = new_table("what", "which", "MB", "why")
        for item in items:
            megabytes = f"{item.bytes / 1e6:,.2f}"
            cells: tuple[Any, ...] = (item.kind, item.name, megabytes, item.reason)
            table.add_row(*(printable(cell, console) for cell in cells))
        console.print(table)
    for version, reason in kept.items():
        console.print(printable(f"stays: {version} ({reason})", console), soft_wrap=True)
    for failure in failures:
        say(f"not removed: {failure}", file=sys.stderr)

    total = f"{_total(items) / 1e6:,.2f} MB"
    if not items and not failures:
        console.print("nothing to remove")
    elif is_dry_run:
        console.print(f"{total} would be freed; nothing was removed (--dry-run)")
    else:
        console.print(f"{total} freed")
