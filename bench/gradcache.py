"""The cached contrastive loss (GradCache) against tunetrail's own plain one: time at one batch size, memory at many."""

import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.corpus import plain_text
from bench.engine.comparing import ROUNDS
from bench.engine.figures import GIB, ratios
from bench.engine.rows import Row, training_rows, write_rows
from bench.engine.tasks import Task
from bench.fresh import Arm, called_fresh, interleaved
from bench.results import Figure, Options, Result
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model

_FUNCTION = "bench.engine.embedding:train_with_tunetrail"
_PLAIN, _CACHED = "plain loss", "cached loss"
_ROWS, _HELD_OUT, _BATCH_SIZE, _MINI_BATCH = 512, 128, 128, 32
_MOST_TIME = 1.5
_MEMORY_BATCHES, _MEMORY_LENGTH, _MOST_MEMORY = (64, 512, 4096), 32, 1.25
_SEED = 42


def run(options: Options) -> list[Result]:
    """Train MiniLM on pairs with and without the cache, then with it on ever larger batches of short texts."""
    task = Task(
        model=resolve_model("minilm", EMBEDDING_MODELS).path,
        train="",
        held_out="",
        shape="pair",
        loss="multiple_negatives_ranking",
        rows=0,
        batch_size=_BATCH_SIZE,
        epochs=2,
        max_length=128,
        learning_rate=2e-5,
    )
    return [_time(task, options), _memory(task, options)]


def _time(task: Task, options: Options) -> Result:
    rows = training_rows("pair", options, rows=_ROWS, batch_size=_BATCH_SIZE, held_out=_HELD_OUT)
    with tempfile.TemporaryDirectory(prefix="bench-rows-") as folder:
        plain = _filled(task, rows.train, rows.held_out, Path(folder))
        cached = replace(plain, mini_batch_size=_MINI_BATCH)
        arms = [
            Arm(name=name, function=_FUNCTION, arguments={"task": each.to_dict()})
            for name, each in ((_PLAIN, plain), (_CACHED, cached))
        ]
        runs = interleaved(arms, options.rounds or ROUNDS)
    figures = [
        *(
            Figure(
                name=f"{name}, speed",
                unit="pairs/s",
                values=[each["rows_per_second"] for each in found],
            )
            for name, found in runs.items()
        ),
        Figure(
            name="time of the cached loss",
            unit="x",
            values=ratios(runs[_CACHED], runs[_PLAIN], "seconds"),
            at_most=_MOST_TIME,
        ),
        *(
            Figure(
                name=f"{name}, {title}", unit=unit, values=[each[key] / divisor for each in found]
            )
            for key, title, unit, divisor in (
                ("memory", "peak memory", "GiB", GIB),
                ("held_out_loss", "held-out loss", "", 1),
            )
            for name, found in runs.items()
        ),
    ]
    details = {
        "batch_size": _BATCH_SIZE,
        "mini_batch_size": _MINI_BATCH,
        "max_length": task.max_length,
    }
    return Result(
        name=f"gradcache, {rows.name}, {len(rows.train):,} rows", figures=figures, details=details
    )


def _memory(task: Task, options: Options) -> Result:
    largest = min(options.rows or _MEMORY_BATCHES[-1], _MEMORY_BATCHES[-1])
    sizes = [size for size in _MEMORY_BATCHES if size < largest] + [largest]
    found: dict[int, dict[str, Any]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="bench-rows-") as folder:
            made = _made_pairs(size + _MINI_BATCH)
            given = replace(
                _filled(task, made[:size], made[size:], Path(folder)),
                batch_size=size,
                mini_batch_size=_MINI_BATCH,
                max_length=_MEMORY_LENGTH,
            )
            arm = Arm(
                name=f"batch of {size:,}", function=_FUNCTION, arguments={"task": given.to_dict()}
            )
            found[size] = called_fresh(arm)
    flat = max(each["memory"] for each in found.values()) / found[sizes[0]]["memory"]
    figures = [
        *(
            Figure(
                name=f"peak memory, batch of {size:,}", unit="GiB", values=[each["memory"] / GIB]
            )
            for size, each in found.items()
        ),
        Figure(
            name=f"peak memory against a batch of {sizes[0]:,}",
            unit="x",
            values=[flat],
            at_most=_MOST_MEMORY,
        ),
    ]
    details = {"mini_batch_size": _MINI_BATCH, "max_length": _MEMORY_LENGTH, "steps": 2}
    return Result(
        name=f"gradcache, memory up to a batch of {largest:,}", figures=figures, details=details
    )


def _made_pairs(count: int) -> list[Row]:
    rng = random.Random(_SEED)
    return [{"anchor": plain_text(rng), "positive": plain_text(rng)} for _ in range(count)]


def _filled(task: Task, train: Any, held_out: Any, folder: Path) -> Task:
    return replace(
        task,
        train=write_rows(train, folder / "train.jsonl"),
        held_out=write_rows(held_out, folder / "held_out.jsonl"),
        rows=len(train),
    )
