"""A prepared session in the cache: whoever prepares the same rows in the same way copies it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tunetrail.cache import complete_folder
from tunetrail.data import row_files
from tunetrail.data.checks.results import CheckResult, Example, StepAccount
from tunetrail.data.flow.prepared import CHANGES, FLAGS, SET_ASIDE, PreparedSession, side_file
from tunetrail.data.sides import SIDES
from tunetrail.paths import private_file, private_folder, write_private_text

_SESSION = "session.json"


@dataclass(frozen=True, kw_only=True)
class CachedSession:
    """The files of a prepared session at its place in the cache.

    Attributes:
        place: The folder, which exists if the session was kept. It has no folders within it, as the
            cache measures the files of one level.
    """

    place: Path

    def keep(self, session: PreparedSession) -> None:
        """Copy a session to its place, which appears complete or not at all."""
        # What is there can't be read, or nobody would have prepared the session again.
        shutil.rmtree(self.place, ignore_errors=True)
        facts = _fields(session)
        del facts["folder"]
        with complete_folder(self.place) as folder:
            for name, file in _files(session.folder).items():
                shutil.copyfile(file, private_file(folder / name))
            write_private_text(folder / _SESSION, json.dumps(facts, default=_json_value))

    def copy_to(self, folder: Path) -> PreparedSession | None:
        """Copy the session to a folder and return it; None if it isn't there or is broken."""
        try:
            facts = json.loads((self.place / _SESSION).read_text(encoding="utf-8"))
            session = _session_of(facts, folder)
            private_folder(folder / "rows")
            for name, file in _files(folder).items():
                shutil.copyfile(self.place / name, private_file(file))
            for side, rows in session.sides.items():
                if row_files.row_count(side_file(folder, side)) != rows:
                    return None
        # A full disk or a power cut may have left files broken, and older code wrote other facts.
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None

        session.write_summary()
        return session


def _files(folder: Path) -> Mapping[str, Path]:
    """Return the files of a prepared session by their names in the cache."""
    sides = {f"{side}.parquet": side_file(folder, side) for side in SIDES}
    return sides | {name: folder / name for name in (SET_ASIDE, CHANGES, FLAGS)}


def _fields(result: Any) -> dict[str, Any]:
    """Return all fields of a dataclass by name, also those that `to_dict` leaves out."""
    return {field.name: getattr(result, field.name) for field in fields(result)}


def _json_value(value: Any) -> Any:
    """Return what `json` makes of a value that it doesn't know: a dataclass or NumPy's number."""
    return _fields(value) if is_dataclass(value) else value.item()


def _session_of(facts: Mapping[str, Any], folder: Path) -> PreparedSession:
    """Return the session of which these are the fields as plain values."""
    findings = []
    for finding in facts["findings"]:
        examples = tuple(Example(**example) for example in finding["examples"])
        row_ids = tuple(finding["row_ids"])
        findings.append(CheckResult(**(finding | {"examples": examples, "row_ids": row_ids})))

    nested = {
        "account": tuple(StepAccount(**step) for step in facts["account"]),
        "findings": tuple(findings),
        "warnings": tuple(facts["warnings"]),
    }
    return PreparedSession(**(dict(facts) | nested), folder=folder)
