"""What Lightning, logging and tracking cost per step: a toy model through the ordinary path, less a bare loop."""

import tempfile
from pathlib import Path

from bench.engine.rows import training_rows, write_rows
from bench.engine.tasks import Task
from bench.fresh import Arm, interleaved
from bench.results import Figure, Options, Result

_ROWS, _BATCH_SIZE, _MOST_MILLISECONDS, _ROUNDS = 1600, 4, 2.0, 5
_WHOLE, _BARE = "ordinary training", "bare loop"
_FUNCTIONS = {_WHOLE: "train_through_lightning", _BARE: "train_in_a_bare_loop"}


def run(options: Options) -> list[Result]:
    """Train the toy both ways, hundreds of steps of few texts each."""
    rows = training_rows("pair", options, rows=_ROWS, batch_size=_BATCH_SIZE, held_out=0)
    with tempfile.TemporaryDirectory(prefix="bench-rows-") as folder:
        task = Task(
            model="",
            train=write_rows(rows.train, Path(folder) / "train.jsonl"),
            held_out="",
            shape="pair",
            loss="multiple_negatives_ranking",
            rows=len(rows.train),
            batch_size=_BATCH_SIZE,
            epochs=2,
            max_length=32,
            learning_rate=2e-5,
        ).to_dict()
        arms = [
            Arm(name=name, function=f"bench.engine.overhead:{function}", arguments={"task": task})
            for name, function in _FUNCTIONS.items()
        ]
        runs = interleaved(arms, options.rounds or _ROUNDS)
    times = {name: [each["milliseconds"] for each in found] for name, found in runs.items()}
    figures = [
        Figure(name=f"{name}, step", unit="ms", values=found) for name, found in times.items()
    ]
    figures.append(
        Figure(
            name="Lightning, logging and tracking, step",
            unit="ms",
            values=[whole - bare for whole, bare in zip(times[_WHOLE], times[_BARE], strict=True)],
            at_most=_MOST_MILLISECONDS,
        )
    )
    return [Result(name=f"overhead, {len(rows.train) // _BATCH_SIZE:,} steps", figures=figures)]
