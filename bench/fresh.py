"""Fresh processes: functions called in processes of their own, in turn, so that no measurement meets another's memory.

Knows not what is measured. A function takes keywords that JSON can say, and `folder`, an empty
folder that is removed afterwards; it returns a dict that JSON can say.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from tunetrail.errors import ConfigError, UserError

THREADS = 2
"""Of every measured process, however many cores there are."""
_ENVIRONMENT = {
    "OMP_NUM_THREADS": str(THREADS),
    "MKL_NUM_THREADS": str(THREADS),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
GPU = "BENCH_GPU"
"""Environment variable with the GPU that measured processes see; without it they see none."""
_SHOWN_CHARACTERS = 4000


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: What the figures call it.
        function: `module:function`.
        arguments: Its keywords.
        most_rounds: In how many rounds it takes part, None for all.
    """

    name: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    most_rounds: int | None = None


class ArmError(UserError):
    """A measured process ended with an error; the message holds the end of what it said."""


def called_fresh(arm: Arm) -> dict[str, Any]:
    """Call the arm's function in a new process with two threads, and return its result.

    The process sees the GPU that the variable `BENCH_GPU` names, and none without it.

    Raises:
        ArmError: The process failed.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        (folder / "work").mkdir()
        given, result = folder / "arguments.json", folder / "result.json"
        given.write_text(json.dumps({**arm.arguments, "folder": str(folder / "work")}))
        command = [sys.executable, "-m", "bench.fresh", arm.function, str(given), str(result)]
        with (folder / "said.txt").open("w") as said:
            process = subprocess.run(
                command,
                cwd=Path(__file__).parents[1],
                env=os.environ | _ENVIRONMENT | {"CUDA_VISIBLE_DEVICES": os.environ.get(GPU, "")},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
        if process.returncode:
            end = (folder / "said.txt").read_text(errors="replace")[-_SHOWN_CHARACTERS:]
            raise ArmError(f"{arm.name} ({arm.function}) ended with {process.returncode}:\n{end}")
        found: dict[str, Any] = json.loads(result.read_text())
        return found


def interleaved(arms: Sequence[Arm], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Call the arms in turn, A B A B, and return each one's results by its name, one per round."""
    console = Console(stderr=True)
    results: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
    for number in range(rounds):
        for arm in arms:
            if arm.most_rounds is not None and number >= arm.most_rounds:
                continue
            began = time.monotonic()
            results[arm.name].append(called_fresh(arm))
            seconds = time.monotonic() - began
            console.print(
                f"round {number + 1} of {rounds}: {arm.name}, {seconds:.0f} s", highlight=False
            )
    return results


def require(*packages: str) -> None:
    """Raise `ConfigError` where a package that the peers need isn't installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"this benchmark needs {', '.join(missing)}, which isn't installed. Start it by `make bench`, or install "
            "the extra: pip install -e '.[bench]' -c constraints.txt"
        )


def _main(function: str, given: Path, result: Path) -> None:
    module, _, name = function.partition(":")
    found = getattr(importlib.import_module(module), name)(**json.loads(given.read_text()))
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
