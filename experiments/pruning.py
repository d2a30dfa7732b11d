"""Measures what pruning saves in a sweep over a real fine-tuning, and whether it still finds the same best job.

The data isn't part of the project: DATA is the file `train.csv` of PolyAI's Banking77, with the
columns `text` and `category`. The jobs' settings are drawn at random, the same ones for each pruner.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tunetrail import DatabaseManager
from tunetrail.config import TrackingConfig
from tunetrail.config.sweep import PRUNERS
from tunetrail.samples import SampleKind
from tunetrail.stores.tracking.run_tags import SWEEP_TAG
from tunetrail.stores.tracking.tracker import Tracker
from tunetrail.sweeps.study import SweepStudy
from tunetrail.sweeps.sweep_job import JobState, SweepJob

CATEGORIES, QUESTIONS = 16, 18
JOBS, EPOCHS = 24, 4
SPACE = (
    "embedding.training.learning_rate=tag(log,interval(2e-6,5e-4))",
    "embedding.loss_options.temperature=0.02,0.05,0.1",
    "embedding.training.weight_decay=0,0.01,0.1",
)
TRAINING = (
    *("session_id=banking", "model_type=embedding", "embedding.model=minilm"),
    *("cross_validation=off", "split.validation_share=0.3", "sweep.promote=none"),
    *(f"embedding.training.num_epochs={EPOCHS}", "embedding.training.batch_size=16"),
    # A training that stops by itself would save steps without a pruner.
    "embedding.training.early_stopping_patience=0",
    "embedding.training.warmup_steps=5",
)


def ingest(data: Path, folder: Path) -> None:
    """Store the first questions of the first categories as a session."""
    questions: dict[str, list[str]] = defaultdict(list)
    with data.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            questions[row["category"]].append(row["text"])

    rows: list[dict[str, str]] = []
    for category in sorted(questions)[:CATEGORIES]:
        rows += [{"text": text, "label": category} for text in questions[category][:QUESTIONS]]
    with DatabaseManager(f"sqlite:///{folder}/tunetrail.db") as database:
        database.ingest("banking", rows, SampleKind.EMBEDDING)


def sweep(folder: Path, pruner: str, seed: int) -> list[SweepJob]:
    """Run the sweep with a pruner, as a user does, and return its jobs."""
    database_url, tracking_uri = f"sqlite:///{folder}/tunetrail.db", f"sqlite:///{folder}/mlflow.db"
    search = ("sampler=random", f"n_trials={JOBS}", f"seed={seed}", f"pruner={pruner}")
    # Every job trains half an epoch at least, which is until its first validation.
    search += ("pruner_warmup_steps=5",)
    command = [sys.executable, "-m", "tunetrail", "train", "-m", *TRAINING, *SPACE]
    command += [f"hydra.sweeper.{setting}" for setting in search]
    command += [f"database.url={database_url}", f"tracking.uri={tracking_uri}"]
    log = folder / f"{pruner}.log"
    with log.open("w") as file:
        done = subprocess.run(command, cwd=folder, stdout=file, stderr=file)
    if done.returncode != 0:
        raise SystemExit(log.read_text()[-2000:])

    client = Tracker(TrackingConfig(uri=tracking_uri)).client
    experiment_ids = [experiment.experiment_id for experiment in client.search_experiments()]
    sweeps = client.search_runs(
        experiment_ids, f"tags.`{SWEEP_TAG}` LIKE '%'", order_by=["start_time DESC"]
    )
    with DatabaseManager(database_url) as database:
        return SweepStudy.open(database, sweeps[0].info.run_id).jobs()


def objective_of(job: SweepJob) -> float:
    """Return the objective of a job, and less than any other of a job that hasn't finished."""
    return job.values[0] if job.values else float("-inf")


def print_sweep(pruner: str, jobs: Sequence[SweepJob], jobs_without: Sequence[SweepJob]) -> None:
    """Print what a sweep cost and found, next to the sweep without a pruner."""
    steps, steps_without = (sum(job.steps or 0 for job in some) for some in (jobs, jobs_without))
    seconds = sum(job.seconds or 0.0 for job in jobs)
    pruned = sum(job.state == JobState.PRUNED for job in jobs)
    failed = sum(job.state == JobState.FAILED for job in jobs)
    print(
        f"{pruner}: {steps} steps ({1 - steps / steps_without:.1%} saved), {seconds:.0f} s, "
        f"{pruned} of {len(jobs)} jobs pruned, {failed} failed"
    )

    best = max(jobs, key=objective_of)
    ranking = sorted(jobs_without, key=objective_of, reverse=True)
    rank = [job.number for job in ranking].index(best.number) + 1
    print(
        f"    best: job {best.number} ({', '.join(best.overrides)}): {objective_of(best):.4f}, "
        f"{best.interval}; without a pruner it is number {rank} of {len(ranking)}",
        flush=True,
    )


def print_jobs(jobs: Sequence[SweepJob]) -> None:
    """Print a line for each job."""
    for job in jobs:
        value = f"{job.values[0]:.4f}" if job.values else str(job.reason)
        print(f"    {job.number:2} {job.state:8} {job.steps:3} steps  {value}  {job.overrides}")


def main() -> None:
    """Run the sweep without a pruner, then with each one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="train.csv of Banking77")
    parser.add_argument("--pruners", nargs="+", choices=PRUNERS[1:], default=["asha", "median"])
    parser.add_argument("--seed", type=int, default=42, help="of the sampler")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ingest(options.data, folder)
        jobs_without = sweep(folder, "none", options.seed)
        print_jobs(jobs_without)
        print_sweep("none", jobs_without, jobs_without)
        for pruner in options.pruners:
            jobs = sweep(folder, pruner, options.seed)
            print_jobs(jobs)
            print_sweep(pruner, jobs, jobs_without)


if __name__ == "__main__":
    main()
