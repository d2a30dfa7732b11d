"""A training on one or several ranks of this machine, as a job of its own like those of `tunetrail train`."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from bench.engine.rows import load_rows
from bench.engine.tasks import Task
from bench.fresh import THREADS
from tunetrail.config import EmbeddingConfig, Settings
from tunetrail.config.trainer import TrainerConfig
from tunetrail.data.rows import rows_frame
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.pipeline.jobs import JobRows, TrainingJob, run_fit_job
from tunetrail.samples import SampleKind, parse_sample


def train_on_ranks(*, task: dict[str, Any], ranks: int, folder: str) -> dict[str, Any]:
    """Train a task on the CPU; one rank has two threads, and several share the cores out.

    Args:
        task: `Task.to_dict()`.
        ranks: Number of ranks; one trains in this process.
        folder: For the job.

    Returns:
        `rows_per_second` of all epochs but the first, without validations, and `held_out_loss`.
    """
    given, job = Task(**task), Path(folder) / "job"
    _write_job(given, ranks, job)

    # The ranks' processes read these; with two threads each they would wait for one another's core.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(THREADS // ranks)
    reported_at: dict[int, float] = {}

    def note(metrics: Mapping[str, float], step: int) -> None:
        if "train/loss" in metrics:
            reported_at[step] = time.perf_counter()

    result = run_fit_job(job, note)

    seconds = seconds_within_epochs(reported_at, given.rows // given.batch_size)
    rows = len(seconds) * given.batch_size
    return {
        "rows_per_second": rows / sum(seconds),
        "held_out_loss": result["best_validation_loss"],
    }


def seconds_within_epochs(moments: Mapping[int, float], steps_per_epoch: int) -> list[float]:
    """Return the seconds of all steps except those of the first epoch and the first of each epoch.

    A validation comes between the first step of an epoch and the step before it.

    Args:
        moments: When each step was reported.
        steps_per_epoch: Steps of an epoch.
    """
    seconds = []
    for step in sorted(moments):
        if step > steps_per_epoch and step % steps_per_epoch != 1:
            seconds.append(moments[step] - moments[step - 1])
    return seconds


def _write_job(task: Task, ranks: int, folder: Path) -> None:
    training = replace(task.training(), logging_steps=1, early_stopping_patience=0)
    config = EmbeddingConfig(
        model=task.model, max_length=task.max_length, loss=task.loss, training=training
    )
    trainer = TrainerConfig(accelerator="cpu", devices=ranks)
    JobRows(train=_frame(task.train), validation=_frame(task.held_out)).write(folder)
    TrainingJob(
        model_type="embedding",
        shape=task.shape,
        settings=Settings(embedding=config, trainer=trainer, seed=task.seed),
        start=task.model,
        auto_values=AutoValues(),
    ).write(folder)


def _frame(file: str) -> pd.DataFrame:
    kind = SampleKind("embedding")
    return rows_frame(enumerate(parse_sample(row, kind) for row in load_rows(file)))
