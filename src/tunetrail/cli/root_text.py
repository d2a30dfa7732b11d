"""What `tunetrail root` prints of roots, decisions, versions and their differences."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tunetrail.cli.terminal import new_table, plain_text, printable
from tunetrail.deployment.root_history import evidence_of
from tunetrail.reporting.readable import shown_interval, shown_moment
from tunetrail.stores.database.ledger import DELETED, FORBIDDEN
from tunetrail.stores.database.manager import PromotionRecord


def print_root(root: Mapping[str, Any]) -> None:
    """Print which version is root of a family, since when, by which evidence and who decided."""
    line = root["root"]
    if line is None:
        print_line(f"{root['family']} has no root")
        return

    since, actor = _time_in_words(line["created_at"]), line["actor"] or "unknown"
    print_line(f"{root['family']}/{line['version']} is root since {since}")
    print_line(f"    {_evidence_in_words(root['evidence']) or 'no evidence in the ledger'}")
    print_line(f"    {line['decision']} by {actor}: {line['reason']}")


def print_decision(line: PromotionRecord) -> None:
    """Print a decision in three lines, as `git log` prints a commit."""
    names = ", ".join(line.sessions)
    session = f", session{'s' if len(line.sessions) > 1 else ''} {names}" if names else ""
    when = _time_in_words(line.created_at)
    # The others are about a version, whichever is root.
    is_about_root = line.decision not in (FORBIDDEN, DELETED)
    before = f", root before: {line.previous_version or 'none'}" if is_about_root else ""
    print_line(f"{line.model_name}/{line.version}  {when}  {line.decision}")
    print_line(f"    by {line.actor or 'unknown'}{session}{before}")
    gain = _evidence_in_words(evidence_of([line]))
    if gain:
        print_line(f"    {gain}")
    print_line(f"    {line.reason}")


def print_version(version: Mapping[str, Any]) -> None:
    """Print whether a version is root, its evidence, the decisions on it, and its details."""
    state = "root" if version["is_root"] else "not root"
    forbidden = f", forbidden: {version['forbidden']}" if version["forbidden"] else ""
    print_line(f"{version['version']}: {state}{forbidden}")
    print_line(f"evidence: {_evidence_in_words(version['evidence']) or 'none'}")
    for line in version["decisions"]:
        when, actor = _time_in_words(line["created_at"]), line["actor"] or "unknown"
        print_line(f"{when}  {line['decision']} by {actor}: {line['reason']}")

    if version["details"] is None:
        print_line("configuration, data and metrics: not in the ledger, which didn't keep them")
    else:
        _print_details(version["details"])


def _print_details(details: Mapping[str, Any]) -> None:
    """Print what a version was trained with, on which rows, and its metrics."""
    from tunetrail.config.keys import typed
    from tunetrail.run_summary import changed_settings

    settings = [
        (key, typed(setting.value), typed(setting.default))
        for key, setting in changed_settings(details.get("configuration", {}))
    ]
    _print_table(("setting", "value", "default"), settings)
    print_line("Settings that aren't listed have their defaults; --json shows them all.")

    scores = details.get("metrics", {})
    candidate, reference = scores.get("candidate", {}), scores.get("reference", {})
    metrics = [
        (name, _score_in_words(value), _score_in_words(reference.get(name)))
        for name, value in candidate.items()
    ]
    _print_table(("metric", "this version", "compared with"), metrics)

    # The card says the same in other words, and for other readers.
    shown = ("configuration", "metrics", "tags", "card")
    _print_tree({name: details[name] for name in details if name not in shown})


def _score_in_words(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def print_difference(difference: Mapping[str, Any], first: str, second: str) -> None:
    """Print how two versions differ, by section."""
    for section in ("configuration", "data", "metrics", "evidence"):
        changes = difference[section]
        print_line(f"{section}: {'the same' if not changes else ''}".rstrip())
        rows = [(key, _shown(old), _shown(new)) for key, (old, new) in changes.items()]
        _print_table(("", first, second), rows)

    for version in difference["without_details"]:
        print_line(f"{version}: configuration, data and metrics aren't in the ledger")


def _evidence_in_words(evidence: Mapping[str, Any]) -> str:
    """Return `ndcg_at_10 0.5012 -> 0.5420, +0.0408 (+0.0101 … +0.0702)`; empty without any."""
    if not evidence or evidence["improvement"] is None:
        return ""
    interval = shown_interval(evidence["lower"], evidence["upper"]) or "no interval"
    gain = f"{evidence['improvement']:+.4f} ({interval})"
    return f"{evidence['metric']} {evidence['before']:.4f} -> {evidence['after']:.4f}, {gain}"


def _time_in_words(time: datetime | str | None) -> str:
    """Return a time with its seconds: decisions of a sweep follow one another closely."""
    moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    return "" if moment is None else shown_moment(moment, seconds=True)


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _print_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        return
    from rich.console import Console

    console = Console()
    table = new_table(*(printable(column, console) for column in columns))
    for row in rows:
        table.add_row(*(printable(cell, console) for cell in row))
    console.print(table)


def _print_tree(tree: Mapping[str, Any], indent: str = "") -> None:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            print_line(f"{indent}{name}:")
            _print_tree(value, indent + "  ")
        else:
            print_line(f"{indent}{name}: {value}")


def print_line(text: str) -> None:
    """Print a text of the ledger, of which a terminal obeys nothing."""
    print(plain_text(text))
