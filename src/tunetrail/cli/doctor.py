"""`tunetrail doctor`: find and repair what a crash left, and say where everything is."""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options, show
from tunetrail.cli.store_options import add_database, add_uri
from tunetrail.cli.terminal import say
from tunetrail.config import TrackingConfig
from tunetrail.extensions import installed_extensions
from tunetrail.hardware import cpu_count, may_have_gpu
from tunetrail.imports import importing
from tunetrail.paths import cache_dir, shown_uri
from tunetrail.stores.tracking.provenance import LIBRARIES

_DESCRIPTION = """\
Find what a crash left: a move of root without a decision, a version that nobody decided on, a
running run of a dead process, a half-written export, folders and models that nobody uses, a ledger
that differs from MLflow. --fix repairs what needs no person to decide.

It also says which versions are installed, what other packages add to tunetrail and whether it can
be used, which devices there are, and where the database, the MLflow store, the exported models and
the caches are, with the free space of their disks."""

_EPILOG = """\
exit code: 0 if nothing is wrong, or --fix has repaired everything; 1 if something is left"""
_PACKAGES = (*LIBRARIES, "hydra-core", "optuna", "SQLAlchemy")


def doctor(arguments: list[str]) -> int:
    """Run `tunetrail doctor`."""
    options = _parse(arguments)
    # Imported only after parsing: --help doesn't wait for the database's library.
    with importing():
        from tunetrail.deployment.doctor import Doctor, repair_all
        from tunetrail.stores.database.manager import DatabaseManager
        from tunetrail.stores.runs.survey import open_survey

    model_dir = Path(options.model_dir)
    with DatabaseManager(options.database) as database:
        patient = Doctor(
            database=database,
            store=open_survey(TrackingConfig(uri=options.uri)),
            model_dir=model_dir,
            output_dir=Path(options.output_dir),
        )
        findings = patient.findings()
        failures = repair_all(findings) if options.fix else []
        # Examined again: a repair may have left something, and one may have repaired several.
        left = patient.findings() if options.fix and findings else findings
        places = _places(options, database.shown_url)

    report = {
        "found": [finding.text for finding in findings],
        "left": [{"text": finding.text, "advice": finding.advice} for finding in left],
        "failures": failures,
        "versions": _versions(),
        "devices": _devices(),
        "places": places,
        "extensions": _extensions(),
    }
    show(lambda: report, lambda: _print_report(report, is_fixed=options.fix))
    return 1 if left else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        prog="tunetrail doctor",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    parser.add_argument("--fix", action="store_true", help="repair what can be repaired")
    add_output_options(parser)

    add_database(parser, "database of runs and ledger")
    add_uri(parser)
    folder_help = "folder of the exported models (default: %(default)s)"
    parser.add_argument("--model-dir", default="models", metavar="FOLDER", help=folder_help)
    output_help = "folder of runs that can be resumed (default: %(default)s)"
    parser.add_argument(
        "--output-dir", default="training_output", metavar="FOLDER", help=output_help
    )

    return parser.parse_args(arguments)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _extensions() -> list[dict[str, str | None]]:
    """Return what installed packages add, with the reason if one can't be used."""
    return [
        {
            "group": extension.point.group,
            "name": extension.name,
            "package": extension.package,
            "version": extension.version,
            "problem": extension.problem(),
        }
        for extension in installed_extensions()
    ]


def _devices() -> list[str]:
    """Return the devices of this machine, GPUs first."""
    gpus = []
    if may_have_gpu():
        from tunetrail.learning.devices import visible_gpus

        gpus = [f"GPU {name}" for name in visible_gpus()]
    return [*gpus, f"CPU with {cpu_count()} cores ({platform.machine()})"]


def _places(options: argparse.Namespace, database: str) -> dict[str, dict[str, Any]]:
    """Return where everything is, by what it is."""
    store = shown_uri(options.uri)
    places: dict[str, dict[str, Any]] = {
        "database": {"place": database},
        "MLflow store": {"place": store},
    }
    folders = {
        "exported models": Path(options.model_dir),
        "runs that can be resumed": Path(options.output_dir),
        "cache": cache_dir(),
        "cache of Hugging Face": Path(os.environ.get("HF_HOME", "~/.cache/huggingface")),
        "temporary files": Path(tempfile.gettempdir()),
    }

    for name, folder in folders.items():
        places[name] = _described(folder.expanduser().absolute())
    return places


def _described(folder: Path) -> dict[str, Any]:
    """Return a folder with its size and the free space of its disk, in bytes."""
    exists = folder.is_dir()
    # The disk that it will be on, if it isn't there yet.
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    description = {"place": str(folder), "exists": exists, "free": shutil.disk_usage(nearest).free}
    # Everybody's temporary files say nothing about this program.
    if exists and folder != Path(tempfile.gettempdir()):
        description["used"] = _size(folder)
    return description


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total


def _print_report(report: dict[str, Any], *, is_fixed: bool) -> None:
    print(", ".join(f"{name} {version}" for name, version in report["versions"].items()))
    print("devices: " + ", ".join(report["devices"]))
    for name, place in report["places"].items():
        say(f"{name}: {_place_in_words(place)}")

    for extension in report["extensions"]:
        source = f"{extension['package']} {extension['version']}"
        say(f"extension: {extension['group']} {extension['name']} ({source})")
        if extension["problem"]:
            say(f"  {extension['problem']}")

    left = [finding["text"] for finding in report["left"]]
    for text in report["found"]:
        is_repaired = is_fixed and text not in left
        say(f"{'repaired' if is_repaired else 'found'}: {text}")
    for finding in report["left"]:
        if finding["advice"]:
            say(f"  {finding['text']}: {finding['advice']}")
    for failure in report["failures"]:
        say(f"not repaired: {failure}", file=sys.stderr)
    if not report["found"]:
        print("nothing is wrong")
    elif left and not is_fixed:
        print("`tunetrail doctor --fix` repairs what needs no decision")


def _place_in_words(place: dict[str, Any]) -> str:
    words = place["place"]
    if place.get("exists") is False:
        words += " (not made yet)"
    if "used" in place:
        words += f", {place['used'] / 1e6:,.1f} MB"
    if "free" in place:
        words += f", {place['free'] / 1e9:,.1f} GB free"
    return str(words)
