"""Executors: chunks are prepared in this process, in several processes, or on Ray Data."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tunetrail.config import PreparationConfig
from tunetrail.ray_cluster import connect

PrepareChunk = Callable[[Path, Path], None]
"""Prepares the chunk of a file into a folder; every worker can reach both paths."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkTask:
    """One chunk to prepare: its file, and the folder for its result."""

    raw: Path
    folder: Path


def run_tasks(
    prepare: PrepareChunk, tasks: Iterable[ChunkTask], config: PreparationConfig
) -> Iterator[ChunkTask]:
    """Run all tasks whose folder doesn't exist yet, and yield every task when its folder does.

    The tasks keep their order. Only few of them wait for a worker at a time, so that their source
    may be larger than memory.

    Raises:
        ConfigError: Ray isn't installed, or its cluster can't be reached.
    """
    if config.engine == "ray":
        yield from _run_on_ray(prepare, tasks)
        return

    # Two tasks are enough to know whether there is anything to do in parallel.
    remaining = iter(tasks)
    first = list(islice(remaining, 2))
    workers = config.workers or os.cpu_count() or 1
    tasks = chain(first, remaining)
    if len(first) < 2 or workers == 1:
        # Starting processes would take longer than one chunk does.
        for task in tasks:
            yield _run_task(prepare, task)
        return

    from joblib import Parallel, delayed

    # As few tasks in advance as keep the workers busy: each holds a file of raw rows.
    parallel = Parallel(
        n_jobs=workers, return_as="generator", pre_dispatch=2 * workers, batch_size=1
    )
    yield from parallel(delayed(_run_task)(prepare, task) for task in tasks)


def _run_task(prepare: PrepareChunk, task: ChunkTask) -> ChunkTask:
    if not task.folder.is_dir():
        prepare(task.raw, task.folder)
    # The raw rows of a large session would fill the disk a second time.
    task.raw.unlink(missing_ok=True)
    return task


def _run_on_ray(prepare: PrepareChunk, tasks: Iterable[ChunkTask]) -> Iterator[ChunkTask]:
    # Stays connected: the next preparation or training of this process needs no new cluster.
    connect("preparation.engine")
    import ray.data

    # The workers of a cluster have other working directories than this process.
    listed = list(tasks)
    rows = [
        {"raw": str(task.raw.resolve()), "folder": str(task.folder.resolve())} for task in listed
    ]

    def run_row(row: dict[str, Any]) -> dict[str, Any]:
        _run_task(prepare, ChunkTask(raw=Path(row["raw"]), folder=Path(row["folder"])))
        return row

    if rows:
        # A block for each chunk: within a block, Ray would prepare one chunk after the other.
        ray.data.from_items(rows, override_num_blocks=len(rows)).map(run_row).materialize()
    yield from listed
