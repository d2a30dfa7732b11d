"""Two ranks with a core each, against one rank with two threads: the same batches of pairs, the same losses."""

import tempfile
from pathlib import Path

from bench.engine.comparing import ROUNDS
from bench.engine.figures import ratios
from bench.engine.rows import training_rows, write_rows
from bench.engine.tasks import Task
from bench.fresh import Arm, interleaved
from bench.results import Figure, Options, Result
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model

_FUNCTION = "bench.engine.ranks:train_on_ranks"
_ONE, _TWO = "one rank, two threads", "two ranks, one thread each"
_RANKS = {_ONE: 1, _TWO: 2}
_ROWS, _HELD_OUT, _BATCH_SIZE, _EPOCHS = 320, 64, 32, 3


def run(options: Options) -> list[Result]:
    """Train MiniLM on pairs by one rank and by two."""
    rows = training_rows("pair", options, rows=_ROWS, batch_size=_BATCH_SIZE, held_out=_HELD_OUT)
    with tempfile.TemporaryDirectory(prefix="bench-rows-") as folder:
        task = Task(
            model=resolve_model("minilm", EMBEDDING_MODELS).path,
            train=write_rows(rows.train, Path(folder) / "train.jsonl"),
            held_out=write_rows(rows.held_out, Path(folder) / "held_out.jsonl"),
            shape="pair",
            loss="multiple_negatives_ranking",
            rows=len(rows.train),
            batch_size=_BATCH_SIZE,
            epochs=_EPOCHS,
            max_length=128,
            learning_rate=2e-5,
        ).to_dict()
        arms = [
            Arm(name=name, function=_FUNCTION, arguments={"task": task, "ranks": ranks})
            for name, ranks in _RANKS.items()
        ]
        runs = interleaved(arms, options.rounds or ROUNDS)

    figures = []
    for title, unit, key in (
        ("speed", "pairs/s", "rows_per_second"),
        ("held-out loss", "", "held_out_loss"),
    ):
        for name, measured in runs.items():
            values = [measurement[key] for measurement in measured]
            figures.append(Figure(name=f"{name}, {title}", unit=unit, values=values))
    speed = ratios(runs[_TWO], runs[_ONE], "rows_per_second")
    figures.append(Figure(name="speed of two ranks against one", unit="x", values=speed))
    return [Result(name=f"ranks, {rows.name}, {len(rows.train):,} rows", figures=figures)]
