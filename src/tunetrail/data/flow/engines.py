"""Engines: where the steps of the chunks run: in this process, in several, or on Ray Data. Knows no step's content."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tunetrail.config import PreparationConfig
from tunetrail.errors import ConfigError

Run = Callable[[Path, Path], None]
"""Prepares the chunk of a file into a folder; both lie where every worker can reach them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One chunk to prepare: its file, and the folder that its result goes to."""

    raw: Path
    folder: Path


def run_jobs(run: Run, jobs: Iterable[Job], config: PreparationConfig) -> Iterator[Job]:
    """Run all jobs whose folder doesn't exist yet, and yield every job in its order once its folder does.

    Few jobs wait for a worker at a time, so what they come from may be larger than memory.

    Raises:
        ConfigError: The engine isn't installed.
    """
    if config.engine == "ray":
        yield from _on_ray(run, jobs)
        return
    ahead = iter(jobs)
    first = list(islice(ahead, 2))
    workers = config.workers or os.cpu_count() or 1
    if len(first) < 2 or workers == 1:
        for job in chain(first, ahead):
            _run_job(run, job)
            yield job
        return
    from joblib import Parallel, delayed

    parallel = Parallel(
        n_jobs=workers, return_as="generator", pre_dispatch=2 * workers, batch_size=1
    )
    yield from parallel(delayed(_run_job)(run, job) for job in chain(first, ahead))


def _run_job(run: Run, job: Job) -> Job:
    if not job.folder.is_dir():
        run(job.raw, job.folder)
    job.raw.unlink(missing_ok=True)
    return job


def _on_ray(run: Run, jobs: Iterable[Job]) -> Iterator[Job]:
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ConfigError(
            "preparation.engine must be local where Ray isn't installed, got 'ray'. pip install 'tunetrail[ray]'"
        ) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    listed = list(jobs)
    paths = [{"raw": str(job.raw.resolve()), "folder": str(job.folder.resolve())} for job in listed]

    def run_one(row: dict[str, Any]) -> dict[str, Any]:
        _run_job(run, Job(raw=Path(row["raw"]), folder=Path(row["folder"])))
        return row

    if paths:
        ray.data.from_items(paths, override_num_blocks=len(paths)).map(run_one).materialize()
    yield from listed
