"""A prepared session: the files of its rows, and the account of how they came about."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tunetrail.data import row_files
from tunetrail.data.checks.results import CheckResult, StepAccount
from tunetrail.data.sides import SIDES
from tunetrail.data.splits import Split, check_no_leak
from tunetrail.errors import ConfigError, SampleError
from tunetrail.paths import made_folder, private_file, write_private_text
from tunetrail.reporting.plain_tables import html_table, plain_table

SET_ASIDE, CHANGES, FLAGS = "set_aside.parquet", "changes.parquet", "flags.parquet"
REPORT, SUMMARY = "report.html", "summary.json"

# A file that says that the other files of a folder are a preparation's, to be replaced.
_MARK = ".tunetrail-prepared"
_KEYS_OF_SUMMARY = {"account", "findings", "split", "stopped"}


ACCOUNT_COLUMNS = ("step", "rows in", "rows out", "set aside", "changed")


@dataclass(frozen=True, kw_only=True, repr=False)
class PreparedSession:
    """What preparation made of a session's rows.

    Attributes:
        folder: Has `rows/train.parquet`, `rows/validation.parquet` and `rows/test.parquet`;
            `set_aside.parquet` and `changes.parquet` (`row_id`, `step`, `reason`, `before`,
            `after`); `flags.parquet` (`row_id`, `check`, `detail`).
        account: What became of the rows, step by step.
        findings: What the validation found, passed checks included.
        sides: Rows by side.
        clusters: Clusters of twins by side.
        method: How sides were chosen: `content` or `time`.
        warnings: Readable sentences about the split.
        placeholders: Personal data replaced, by type.
        stopped: Why the rows can't be trained on; None if they can.
        replayed: Number of rows of earlier sessions that are learnt again, by session.
    """

    folder: Path
    account: tuple[StepAccount, ...]
    findings: tuple[CheckResult, ...]
    sides: Mapping[str, int]
    clusters: Mapping[str, int]
    method: str
    warnings: tuple[str, ...]
    placeholders: Mapping[str, int]
    stopped: str | None = None
    replayed: Mapping[str, int] = field(default_factory=dict)

    @property
    def rows_in(self) -> int:
        """Number of rows that came in."""
        return self.account[0].rows_in

    def step(self, name: str) -> StepAccount:
        """Return the account of one step."""
        return next(step for step in self.account if step.step == name)

    def check_usable(self) -> None:
        """Raise `SampleError` if the validation found errors that stop a training."""
        if self.stopped is not None:
            raise SampleError(f"{self.stopped} See {self.folder / REPORT}.")

    def frame(self, side: str) -> pd.DataFrame:
        """Return the rows of one side, with their `cluster`."""
        return row_files.read_rows(side_file(self.folder, side))

    def split(self) -> Split:
        """Return the rows of all sides; raises `SampleError` if two sides share a cluster."""
        frames = {side: self.frame(side) for side in SIDES}
        check_no_leak(frames)
        return Split(
            train=frames["train"],
            validation=frames["validation"],
            test=frames["test"],
            method=self.method,
            warnings=self.warnings,
        )

    def __repr__(self) -> str:
        return plain_table(ACCOUNT_COLUMNS, self.account_rows(), self._lines())

    def _repr_html_(self) -> str:
        """Return the account for Jupyter."""
        return html_table(ACCOUNT_COLUMNS, self.account_rows(), self._lines())

    def account_rows(self) -> list[tuple[str, ...]]:
        """Return the cells of each step under `ACCOUNT_COLUMNS`."""
        rows: list[tuple[str, ...]] = []
        for step in self.account:
            counts = (step.rows_in, step.rows_out, step.set_aside, step.changed)
            rows.append((step.step, *map("{:,}".format, counts)))
        return rows

    def _lines(self) -> list[str]:
        noticed = [finding for finding in self.findings if finding.severity != "passed"]
        lines = [f"{finding.severity}: {finding.check}: {finding.message}" for finding in noticed]
        sides = ", ".join(f"{side} {rows:,}" for side, rows in self.sides.items())
        return [*lines, f"split by {self.method}: {sides}", f"report: {self.folder / REPORT}"]

    def validation_dict(self) -> dict[str, Any]:
        """Return the result of the validation step, JSON-serialisable."""
        findings, passed = [], []
        for result in self.findings:
            if result.severity == "passed":
                passed.append(result.check)
            else:
                findings.append(result.to_dict())
        return {**self.step("validation").to_dict(), "findings": findings, "passed": passed}

    def cleaning_dict(self) -> dict[str, Any]:
        """Return the result of the cleaning step, JSON-serialisable."""
        return {**self.step("cleaning").to_dict(), "placeholders": dict(self.placeholders)}

    def split_dict(self) -> dict[str, Any]:
        """Return the sides, JSON-serialisable."""
        return {
            "rows": dict(self.sides),
            "clusters": dict(self.clusters),
            "method": self.method,
            "warnings": list(self.warnings),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything except the rows, with the folder and the report, JSON-serialisable."""
        places = {"folder": str(self.folder), "report": str(self.folder / REPORT)}
        return {**places, **self._summary()}

    def write_summary(self) -> Path:
        """Write everything except the rows to `summary.json` and return its path."""
        path = self.folder / SUMMARY
        write_private_text(path, json.dumps(self._summary(), indent=1, ensure_ascii=False))
        return path

    def _summary(self) -> dict[str, Any]:
        return {
            "account": [step.to_dict() for step in self.account],
            "findings": [finding.to_dict() for finding in self.findings],
            "split": self.split_dict(),
            "placeholders": dict(self.placeholders),
            "stopped": self.stopped,
            "replayed": dict(self.replayed),
        }


def claim_folder(folder: Path) -> None:
    """Make a folder for a preparation, or take the one of an earlier preparation.

    Raises:
        ConfigError: The folder holds files of somebody else that would be replaced, or links that
            lead to files elsewhere.
    """
    side_names = [str(side_file(Path(), side)) for side in SIDES]
    names = [*side_names, SET_ASIDE, CHANGES, FLAGS, REPORT, SUMMARY]
    paths = [folder / name for name in (*names, "rows", _MARK)]
    links = list(filter(Path.is_symlink, paths))
    foreign = [folder / name for name in names if (folder / name).exists()]
    blocking = links or ([] if _is_prepared(folder) else foreign)
    # A file in place of the folder of the sides.
    blocking += [path for path in (folder, folder / "rows") if path.exists() and not path.is_dir()]

    if blocking:
        what = "link" if links else "file"
        raise ConfigError(
            "output_dir must be a new folder or one of an earlier preparation, "
            f"got {str(folder)!r} with a {what} of another origin, {str(blocking[0])!r}. "
            "Choose another folder, or move it away."
        )
    made_folder(folder)
    private_file(folder / _MARK)


def _is_prepared(folder: Path) -> bool:
    """Tell whether the files of a folder are a preparation's; older versions left no mark."""
    if (folder / _MARK).is_file():
        return True
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.keys() >= _KEYS_OF_SUMMARY


REPLAYED_SIDE = "replayed"
"""The name of the file of rows of earlier sessions, next to the files of the sides."""


def side_file(folder: Path, side: str) -> Path:
    """Return the Parquet file of one side's rows."""
    return folder / "rows" / f"{side}.parquet"
