"""`tunetrail root`: who is root, since when and why; and to roll back, promote or forbid versions.

Reading asks the ledger only, and MLflow's file for where the alias is: neither MLflow nor torch is
imported unless root has moved without the ledger, or a version moves now.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options, show
from tunetrail.cli.root_text import (
    print_decision,
    print_difference,
    print_line,
    print_root,
    print_version,
)
from tunetrail.cli.store_options import add_database, add_uri
from tunetrail.config import TrackingConfig, default_database_url
from tunetrail.deployment.root_history import (
    RootHistory,
    evidence_of,
    parse_target,
    parse_version,
)
from tunetrail.errors import UserError
from tunetrail.hooks import telling_hook
from tunetrail.imports import importing
from tunetrail.paths import is_missing_file
from tunetrail.stores.database.ledger import open_intents, root_line
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord
from tunetrail.stores.runs.quick_alias import quick_alias

if TYPE_CHECKING:
    from tunetrail.deployment.root_moves import RootMoves

_DESCRIPTION = """\
Show and move root, the version of each family that everybody loads.

commands:
  root                         who is root of each family, since when, by which evidence
  root log FAMILY              all decisions, newest first
  root show VERSION            what the ledger knows of a version
  root diff VERSION VERSION    what differs: configuration, data, metrics, evidence
  root rollback FAMILY [VERSION] --reason TEXT
                               back to the root before, or to VERSION; `base` for no root
  root promote VERSION --reason TEXT [--force]
                               make a version root that waits for an approval (gate.approval=true);
                               --force takes any version, and is written down as forced
  root forbid VERSION --reason TEXT
                               never let a version be root again

FAMILY is the name of a registered model: embedding, llm, or with tracking.prefix=shop-
shop-embedding. VERSION is embedding/3 or models:/embedding/3. Each move is written to the ledger
with who, when and why, and models/FAMILY/root follows."""

_EPILOG = """\
exit code: 0; 2 for a version or family that can't be used, with the reason; 1 for a failure

examples:
  tunetrail root
  tunetrail root log embedding --json
  tunetrail root rollback embedding --reason "wrong answers for French questions"
"""
_FAMILY_HELP = "name of a registered model, such as embedding"
_VERSION_HELP = "a version, such as embedding/3"


def root(arguments: list[str]) -> int:
    """Run `tunetrail root ...`."""
    options = _parse(arguments)
    with DatabaseManager(options.database) as database, telling_hook(database):
        result = _COMMANDS[options.command](options, database)
    # The text was printed while the ledger was open.
    show(lambda: result)
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    # An option may stand before or after the command; only the first parser has the defaults.
    common = CommandParser(add_help=False, argument_default=argparse.SUPPRESS)
    add_output_options(common)
    add_database(common, "database of the ledger", default=argparse.SUPPRESS)
    add_uri(common, default=argparse.SUPPRESS)
    folder_help = "folder of the exported models (default: models)"
    common.add_argument("--model-dir", metavar="FOLDER", help=folder_help)
    reason = CommandParser(add_help=False)
    reason.add_argument("--reason", required=True, type=_reason, metavar="TEXT", help="why")

    parser = CommandParser(
        prog="tunetrail root",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("log", parents=[common]).add_argument(
        "family", metavar="FAMILY", help=_FAMILY_HELP
    )
    commands.add_parser("show", parents=[common]).add_argument(
        "version", metavar="VERSION", help=_VERSION_HELP
    )
    diff = commands.add_parser("diff", parents=[common])
    diff.add_argument("first", metavar="VERSION", help=_VERSION_HELP)
    diff.add_argument("second", metavar="VERSION", help=_VERSION_HELP)
    rollback = commands.add_parser("rollback", parents=[common, reason])
    rollback.add_argument("family", metavar="FAMILY", help=_FAMILY_HELP)
    target_help = "a version, or `base` for no root (default: the root before the present one)"
    rollback.add_argument("version", nargs="?", metavar="VERSION", help=target_help)
    promote = commands.add_parser("promote", parents=[common, reason])
    promote.add_argument("version", metavar="VERSION", help=_VERSION_HELP)
    force_help = "promote it whatever the gate has said; the ledger says so"
    promote.add_argument("--force", action="store_true", help=force_help)
    commands.add_parser("forbid", parents=[common, reason]).add_argument(
        "version", metavar="VERSION", help=_VERSION_HELP
    )
    defaults = argparse.Namespace(
        json=False,
        quiet=False,
        database=default_database_url(),
        uri=TrackingConfig().uri,
        model_dir="models",
    )
    return parser.parse_args(arguments, defaults)


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a text, got nothing but spaces")
    return " ".join(text.split())


def _history(options: argparse.Namespace, database: DatabaseManager) -> RootHistory:
    """Return the ledger after it has caught up with moves that it doesn't know yet."""
    history = RootHistory(database)
    for name in history.names:
        _catch_up(name, history.lines(name), options, database)
    # Read again: the ledger has more lines if something was caught up with.
    return RootHistory(database)


def _catch_up(
    name: str,
    lines: list[PromotionRecord],
    options: argparse.Namespace,
    database: DatabaseManager,
) -> None:
    """Finish a dead process's move, and write down a move made in MLflow; say so on stderr."""
    line = root_line(lines)
    known = None if line is None else line.version
    alias = quick_alias(options.uri, name)
    # A store that isn't there can't have moved root; a server has to be asked.
    is_absent = alias is None and is_missing_file(options.uri)
    is_known = alias is not None and alias.version == known
    if (is_known or is_absent) and not open_intents(lines):
        return
    try:
        _moves(name, options, database).settle()
    # Whoever asks who is root has to get an answer, too.
    except UserError as error:
        print(f"warning: {error}", file=sys.stderr)


def _moves(name: str, options: argparse.Namespace, database: DatabaseManager) -> "RootMoves":
    """Open MLflow's store, whose import takes seconds."""
    with importing():
        from tunetrail.deployment.root_alias import RootAlias
        from tunetrail.deployment.root_moves import RootMoves
        from tunetrail.stores.tracking.tracker import existing_store

        # MLflow imports the rest of itself once it knows the kind of the store.
        tracker = existing_store(options.uri)
    alias = RootAlias(tracker=tracker, name=name)
    return RootMoves(alias=alias, model_dir=Path(options.model_dir), database=database)


def _show_roots(options: argparse.Namespace, database: DatabaseManager) -> dict[str, Any]:
    history = _history(options, database)
    roots: list[dict[str, Any]] = []
    for name, line in history.roots():
        if line is None:
            roots.append({"family": name, "root": None})
            continue
        # A rollback measures nothing: what speaks for the version was measured earlier.
        measured = [old for old in history.decisions(name) if old.version == line.version]
        roots.append(
            {"family": name, "root": line.to_dict(), "evidence": evidence_of([line, *measured])}
        )

    if not options.json:
        for root in roots:
            print_root(root)
        if not roots:
            print(f"no root yet in {database.shown_url}: `tunetrail train` decides on the first")
    return {"roots": roots}


def _show_log(options: argparse.Namespace, database: DatabaseManager) -> dict[str, Any]:
    decisions = _history(options, database).decisions(options.family)
    plain = [line.to_dict() for line in decisions]
    if not options.json:
        for line in decisions:
            print_decision(line)
    return {"family": options.family, "decisions": plain}


def _show_version(options: argparse.Namespace, database: DatabaseManager) -> dict[str, Any]:
    shown = _history(options, database).show(parse_version(options.version))
    if not options.json:
        print_version(shown)
    return shown


def _show_difference(options: argparse.Namespace, database: DatabaseManager) -> dict[str, Any]:
    first, second = parse_version(options.first), parse_version(options.second)
    difference = _history(options, database).compare(first, second)
    if not options.json:
        print_difference(difference, str(first), str(second))
    return difference


def _roll_back(options: argparse.Namespace, database: DatabaseManager) -> dict[str, Any]:
    # The ledger refuses an unknown family before MLflow is imported.
    RootHistory(database).lines(options.family)
    version = options.version and parse_target(options.version, options.family)
    moves = _moves(options.family, options, database)
    from tunetrail.deployment.root_decisions import roll_back

    return _decided(options, roll_back(moves, version, options.reason))


def _promote(options: argparse.Namespace, database: DatabaseManager) -> dict[str, Any]:
    name = parse_version(options.version)
    RootHistory(database).lines(name.model_name)
    moves = _moves(name.model_name, options, database)
    from tunetrail.deployment.root_decisions import promote

    line = promote(moves, name.version, options.reason, force=options.force)
    return _decided(options, line)


def _forbid(options: argparse.Namespace, database: DatabaseManager) -> dict[str, Any]:
    name = parse_version(options.version)
    RootHistory(database).lines(name.model_name)
    moves = _moves(name.model_name, options, database)
    from tunetrail.deployment.root_decisions import forbid

    return _decided(options, forbid(moves, name.version, options.reason))


def _decided(options: argparse.Namespace, line: PromotionRecord) -> dict[str, Any]:
    if not options.json:
        before = f", root before: {line.previous_version}" if line.previous_version else ""
        print_line(f"{line.model_name}/{line.version}: {line.decision}{before} ({line.reason})")
    return line.to_dict()


_COMMANDS: dict[str | None, Callable[[argparse.Namespace, DatabaseManager], Any]] = {
    None: _show_roots,
    "log": _show_log,
    "show": _show_version,
    "diff": _show_difference,
    "rollback": _roll_back,
    "promote": _promote,
    "forbid": _forbid,
}
