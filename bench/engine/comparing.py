"""One comparison of trainings from rows to figures: files for both sides, arms in turn, the loss before."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.engine.figures import OURS, Targets, comparison
from bench.engine.rows import TrainingRows, write_rows
from bench.engine.tasks import Task
from bench.fresh import Arm, called_fresh, interleaved
from bench.results import Result

ROUNDS = 3


def compared(
    name: str,
    task: Task,
    rows: TrainingRows,
    module: str,
    peers: Sequence[Arm],
    targets: Targets,
    *,
    speed: str,
    unit: str,
    rounds: int | None,
) -> Result:
    """Train the same task by tunetrail and by each peer in turn, and return the figures.

    Args:
        name: Of the result; the rows' name and number are added.
        task: What is trained; its files and number of rows are filled in here.
        rows: What is trained on.
        module: Module with `train_with_tunetrail` and `held_out_before`.
        peers: The other sides; `task` is added to their arguments.
        targets: What must be reached.
        speed: Key of the speed that is compared.
        unit: Of that speed.
        rounds: How often, None for three times.
    """
    with tempfile.TemporaryDirectory(prefix="bench-rows-") as folder:
        filled = replace(
            task,
            train=write_rows(rows.train, Path(folder) / "train.jsonl"),
            held_out=write_rows(rows.held_out, Path(folder) / "held_out.jsonl"),
            rows=len(rows.train),
        ).to_dict()
        arms = [
            Arm(name=OURS, function=f"{module}:train_with_tunetrail", arguments={"task": filled}),
            *(replace(peer, arguments={**peer.arguments, "task": filled}) for peer in peers),
        ]
        before = called_fresh(
            Arm(name="before", function=f"{module}:held_out_before", arguments={"task": filled})
        )
        runs = interleaved(arms, rounds or ROUNDS)
    kept = {key: value for key, value in filled.items() if key not in ("train", "held_out")}
    return comparison(
        f"{name}, {rows.name}, {len(rows.train):,} rows",
        runs,
        speed=speed,
        unit=unit,
        targets=targets,
        before=before["held_out_loss"],
        details={"task": kept},
    )
