"""Results of benchmarks: figures over rounds, with the machine and the versions they hold for. Measures nothing."""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

_LIBRARIES = (
    *("tunetrail", "ftfy", "joblib", "numpy", "pandas", "pyarrow", "rensa", "torch"),
    *(
        "accelerate",
        "datasets",
        "mlflow",
        "peft",
        "pytorch-lightning",
        "sentence-transformers",
        "transformers",
        "trl",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What people can choose.

    Attributes:
        rows: How many rows to make, None for as many as the benchmark's target names.
        data: A file to measure instead of made rows, None for made ones.
        test: A file of rows that a quality is measured on, None for none.
        rounds: How often the main figures are measured, None for as often as the benchmark needs.
        device: What `gpu` trains on: `cuda`, or `cpu` to try its code.
    """

    rows: int | None = None
    data: Path | None = None
    test: Path | None = None
    rounds: int | None = None
    device: str = "cuda"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One measured quantity.

    Attributes:
        name: What it is.
        unit: Its unit, empty for a share or a count.
        values: One value for each round.
        at_least: The target from below, None for none.
        at_most: The target from above, None for none.
    """

    name: str
    unit: str
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """The largest value less the smallest."""
        return max(self.values) - min(self.values)

    @property
    def is_met(self) -> bool | None:
        """Whether the median meets the target, None where there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        above = self.at_least is None or self.median >= self.at_least
        return above and (self.at_most is None or self.median <= self.at_most)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-serialisable."""
        return {
            "unit": self.unit,
            "median": self.median,
            "spread": self.spread,
            "values": list(self.values),
            "at_least": self.at_least,
            "at_most": self.at_most,
            "is_met": self.is_met,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """The figures of one case of a benchmark; a newer result of the same name takes its place in the file."""

    name: str
    figures: Sequence[Figure]
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the name, JSON-serialisable."""
        return {
            "figures": {each.name: each.to_dict() for each in self.figures},
            "details": dict(self.details),
        }


def merge(results: Sequence[Result], path: Path) -> None:
    """Write results into the JSON file `path`, each with its circumstances; other names stay as they are."""
    known: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    around = circumstances()
    known.update({each.name: {**each.to_dict(), **around} for each in results})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(known.items())), indent=1, ensure_ascii=False) + "\n")


def circumstances() -> dict[str, Any]:
    """Return the machine, the commit, the versions and the time, JSON-serialisable."""
    versions: dict[str, str | None] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "system": platform.platform(),
        },
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    )
    found = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), ""
    )
    return found or platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit, with a `+` where files differ from it; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git("rev-parse", "HEAD", folder=folder)
        return commit + (
            "+" if _git("status", "--porcelain", "--untracked-files=no", folder=folder) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str, folder: Path) -> str:
    run = subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return run.stdout.strip()
