"""One rank of a training in several processes: `python -m tunetrail.pipeline.worker FOLDER`.

It only fits: database, MLflow and registry are touched by the process that has started it.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tunetrail.learning.recovery.failures import FullMemoryError
from tunetrail.pipeline.jobs import fit_as_rank, ignore_metrics
from tunetrail.pipeline.ranks import METRICS, OUTPUT, failure_file

_PARENT_SECONDS = 1.0


def main() -> None:
    """Fit the job of a folder as the rank that the environment names."""
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    if rank:
        _write_output_to(folder / OUTPUT / f"{rank}.log")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("tunetrail").setLevel(logging.INFO)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()

    def write_metrics(metrics: Mapping[str, float], step: int) -> None:
        with (folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "metrics": dict(metrics)}) + "\n")

    try:
        fit_as_rank(folder, ignore_metrics if rank else write_metrics, is_first=not rank)
    except BaseException as error:
        failure_file(folder, rank).write_text(json.dumps(_described(error)), encoding="utf-8")
        raise SystemExit(1) from error


def _write_output_to(path: Path) -> None:
    """Write what this process prints to a file: the terminal belongs to rank 0."""
    with path.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())


def _described(error: BaseException) -> dict[str, object]:
    described: dict[str, object] = {
        "at": time.time(),
        "kind": type(error).__name__,
        "message": str(error),
    }
    if isinstance(error, FullMemoryError):
        described |= vars(error)
    return described


def _end_with_parent(parent: int) -> None:
    """Stop as if a signal had asked for it once the parent is gone: nothing else would."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
