"""A training as a job: its inputs and its result lie in a folder, so any process can run it.

job.json                  what is trained, from which model, with which settings
train.parquet             the rows to learn from
additional.parquet        rows of additional shapes to learn from, if there are any
validation.parquet        the rows whose metric is watched; of a fold, the rows to score
corpus.parquet            the rows that these are ranked against, if there are any
before_mining.parquet     the rows from which negatives are mined again, if they are
mined-EPOCH.parquet       the rows with the negatives that were mined for an epoch
checkpoints/              from which a job that was interrupted goes on
ranks/ and further files  of a training on several devices, see `tunetrail.pipeline.ranks`
model/, result.json       the result of a fit, its checks before training in preflight.txt
logs/                     the files of the loggers that the settings name
scores.parquet            the result of a fold: its scores with the values of each held-out row
base_scores.parquet       the base model's scores of the same rows, written before the training
"""

import json
import logging
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError

from tunetrail.config import Settings, TrackingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.data.flow.preparation import result_cache
from tunetrail.data.rows import records_of
from tunetrail.errors import TrainingError, UserError
from tunetrail.evaluation.score_files import read_scores, write_scores
from tunetrail.evaluation.scores import Scores
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.learning.devices import computing_device, device_count
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.learner import Learner
from tunetrail.learning.lightning_internals import no_time_left
from tunetrail.learning.memory_meter import collect_memory
from tunetrail.learning.named_classes.loggers import logging_to
from tunetrail.learning.training.callbacks import MetricsSink
from tunetrail.learning.training.monitored import Monitor
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.paths import private_folder
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.mining import remembered, remining
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.ranks import fit_by_ranks, recovery_of_job
from tunetrail.pipeline.run_files import (
    needed_to_resume,
    read_rows,
    remove,
    write_json,
    write_rows,
)
from tunetrail.pipeline.run_settings import leaves, plain_settings, settings_of
from tunetrail.pipeline.scoring import log_row_counts

logger = logging.getLogger(__name__)

CHECKPOINTS, MODEL, RESULT = "checkpoints", "model", "result.json"
SCORES, BASE_SCORES = "scores.parquet", "base_scores.parquet"
PREFLIGHT, LOGS = "preflight.txt", "logs"
LAST_CHECKPOINT = "last.ckpt"
_JOB = "job.json"
_TRAIN, _ADDITIONAL = "train.parquet", "additional.parquet"
_VALIDATION, _BEFORE_MINING = "validation.parquet", "before_mining.parquet"
_CORPUS = "corpus.parquet"


def ignore_metrics(metrics: Mapping[str, float], step: int) -> None:
    """Take metrics and forget them."""


@dataclass(frozen=True, kw_only=True)
class JobRows:
    """The rows of a job.

    Attributes:
        train: Rows to learn from.
        validation: Rows whose metric is watched; of a fold, the rows to score.
        additional: Rows of additional shapes to learn from; None if there are none.
        before_mining: The train rows before negatives were mined; None if they are mined once or
            not at all.
        corpus: Rows that `validation` is ranked against in addition; None if there are none.
    """

    train: pd.DataFrame
    validation: pd.DataFrame
    additional: pd.DataFrame | None = None
    before_mining: pd.DataFrame | None = None
    corpus: pd.DataFrame | None = None

    def write(self, folder: Path) -> None:
        """Write the rows to the folder of a job."""
        # An interrupted attempt may have left the folder: only job.json makes it a job.
        private_folder(folder)
        write_rows(self.train, folder / _TRAIN)
        write_rows(self.validation, folder / _VALIDATION)
        if self.additional is not None:
            write_rows(self.additional, folder / _ADDITIONAL)
        if self.before_mining is not None:
            write_rows(self.before_mining, folder / _BEFORE_MINING)
        if self.corpus is not None and len(self.corpus):
            write_rows(self.corpus, folder / _CORPUS)


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What a training is told.

    Attributes:
        model_type: `embedding` or `llm`.
        shape: The shape of the rows that the model is judged by.
        settings: All that can be set; connections are not written to the folder.
        start: Folder of the model that the training begins with.
        auto_values: What stands for `auto` in the training's settings.
        budget: The share of the steps that is taken; 1 except in folds.
    """

    model_type: str
    shape: str
    settings: Settings
    start: str
    auto_values: AutoValues
    budget: float = 1.0

    def write(self, folder: Path) -> None:
        """Write the job to the folder that holds its rows."""
        content = {
            "model_type": self.model_type,
            "shape": self.shape,
            # A job reads nothing but its folder, so no address or password goes there.
            "settings": plain_settings(self.settings, database=""),
            "start": self.start,
            "auto_values": self.auto_values.to_dict(),
            "budget": self.budget,
        }
        # After the rows: if the process dies before this line, rows and job are written again.
        write_json(content, folder / _JOB)

    @classmethod
    def read(cls, folder: Path) -> "TrainingJob":
        """Read the job of a folder."""
        content = json.loads((folder / _JOB).read_text(encoding="utf-8"))
        # Needs no store either: its metrics go to whoever runs it.
        settings = settings_of(content.pop("settings"), TrackingConfig())
        auto_values = AutoValues.from_dict(content.pop("auto_values"))
        return cls(settings=settings, auto_values=auto_values, **content)

    @property
    def family(self) -> ModelFamily:
        """The family of the model."""
        return family_named(self.model_type)

    @property
    def learner(self) -> Learner:
        """The learner of the family."""
        cache = result_cache(self.settings.preparation)
        return self.family.learner(self.settings, self.shape, cache)


def is_written(folder: Path) -> bool:
    """Tell whether a folder holds a job."""
    return (folder / _JOB).exists()


def run_fit_job(
    folder: Path,
    on_metrics: MetricsSink = ignore_metrics,
    time_left: Callable[[], str] = no_time_left,
) -> dict[str, Any]:
    """Train the model of a job unless that is done, and return the training's measurements.

    The model is written to `model/`, the measurements to `result.json`. A training that was
    interrupted goes on from its last checkpoint.

    Args:
        folder: The job; nothing else is read.
        on_metrics: Receives metrics while the training runs.
        time_left: Returns how long the run still takes, for the bar of a training in this process.

    Raises:
        TrainingError: The training failed, or its model can't be written.
        UserError: A file of the job is gone or broken.
    """
    path = folder / RESULT
    if not path.exists():
        trainer = TrainingJob.read(folder).settings.trainer
        is_alone = trainer.launcher == "local" and trainer.num_nodes == 1
        if is_alone and device_count(trainer) == 1:
            fit_as_rank(folder, on_metrics, time_left=time_left)
        else:
            fit_by_ranks(folder, trainer, on_metrics)
        # They go last: until then a kill costs the steps since the last one, not the training.
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)

    measurements: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return measurements


def fit_as_rank(
    folder: Path,
    on_metrics: MetricsSink,
    *,
    is_first: bool = True,
    trainer: TrainerConfig | None = None,
    num_nodes: int = 1,
    time_left: Callable[[], str] = no_time_left,
) -> None:
    """Train the model of a job in this process, the only one or one of several ranks.

    Args:
        folder: The job.
        on_metrics: Receives metrics while the training runs.
        is_first: Whether this rank writes the result.
        trainer: The devices as this machine sees them; None takes the job's.
        num_nodes: Number of machines.
        time_left: As for `run_fit_job`.
    """
    job = TrainingJob.read(folder)
    if trainer is not None:
        job = replace(job, settings=replace(job.settings, trainer=trainer))

    loggers = job.settings.trainer.logger if is_first else {}
    parameters = dict(leaves(plain_settings(job.settings, database="")))
    with logging_to(loggers, folder / LOGS, on_metrics, parameters) as report:
        model, result = _train(
            job, folder, report, validate=True, num_nodes=num_nodes, time_left=time_left
        )
    if not is_first:
        return

    _save_model(job.learner, model, folder)
    if result.preflight is not None:
        (folder / PREFLIGHT).write_text(str(result.preflight), encoding="utf-8")
    # The result says that the job is done, so it follows the model.
    write_json(result.to_dict(), folder / RESULT)


def run_fold_job(
    folder: Path,
    on_metrics: MetricsSink = ignore_metrics,
    time_left: Callable[[], str] = no_time_left,
) -> Scores:
    """Train the model of a fold and score it on the held-out rows, unless that is already done.

    The scores with the values of each row are written to `scores.parquet`; of the rest of a
    finished fold, only the base model's scores stay. A fold that was interrupted goes on from its
    last checkpoint.
    """
    path = folder / SCORES
    if not path.exists():
        job = TrainingJob.read(folder)
        # The held-out rows are scored, so they must not choose the weights as well.
        model, _ = _train(job, folder, on_metrics, validate=False, time_left=time_left)

        scores = score_held_out_rows(job.family, job.settings, job.learner, model, folder)
        log_row_counts(f"{job.model_type}, {folder.name}", scores)
        # Before the removal: a kill between the two costs disk space, never the scores.
        write_scores(scores, path)
        for file in folder.iterdir():
            if file.name not in (_JOB, SCORES, BASE_SCORES):
                remove(file)

    return fold_scores(folder)


def fold_scores(folder: Path, name: str = SCORES) -> Scores:
    """Return scores that the folder of a fold holds; raises `UserError` if they can't be read.

    Args:
        folder: The fold.
        name: `SCORES` of the trained model, or `BASE_SCORES`.
    """
    with needed_to_resume(folder / name):
        return read_scores(folder / name)


def score_held_out_rows(
    family: ModelFamily, settings: Settings, learner: Any, model: Any, folder: Path
) -> Scores:
    """Return the scores of a model on the held-out rows of a fold, among the fold's corpus."""
    rows = read_rows(folder / _VALIDATION)
    held_out = family.scorable_rows(settings, learner, [model], rows)
    corpus = _corpus(folder)
    scores = family.gate_scores(settings, learner, model, records_of(held_out), corpus)
    return scores.of_side(len(rows))


def _train(
    job: TrainingJob,
    folder: Path,
    on_metrics: MetricsSink,
    *,
    validate: bool,
    num_nodes: int = 1,
    time_left: Callable[[], str] = no_time_left,
) -> tuple[Any, FitResult]:
    """Train the job's model, from its last checkpoint if there is one."""
    # What earlier trainings of this process have freed would count as held.
    collect_memory(computing_device(job.settings.trainer))
    train = records_of(read_rows(folder / _TRAIN))
    if (folder / _ADDITIONAL).exists():
        train += records_of(read_rows(folder / _ADDITIONAL))
    validation = records_of(read_rows(folder / _VALIDATION)) if validate else []

    monitor = Monitor()
    if validate:
        monitor = job.family.monitor(job.settings, job.shape, validation, _corpus(folder))

    refresh = None
    if (folder / _BEFORE_MINING).exists():
        config = job.settings.feature_engineering.hard_negatives
        mining = remining(read_rows(folder / _BEFORE_MINING), config, job.settings.seed)
        refresh = remembered(mining, folder)

    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        logger.info("%s: training resumes from %s", job.model_type, checkpoint)

    trainer = job.settings.trainer
    if not validate:
        # A fold trains on one device, and without the callbacks of the training.
        # With Ray, the GPUs that were asked for may all be on other machines than this.
        accelerator = "auto" if trainer.launcher == "ray" else trainer.accelerator
        trainer = replace(trainer, devices=1, accelerator=accelerator, callbacks={})

    plan = TrainingPlan(
        folder=folder,
        on_metrics=on_metrics,
        validate=validate,
        monitor=monitor,
        refresh=refresh,
        resume=checkpoint,
        auto_values=job.auto_values,
        budget=job.budget,
        trainer=trainer,
        num_nodes=num_nodes,
        time_left=time_left,
        recovery=recovery_of_job(folder),
    )
    training = job.family.section(job.settings).training
    trained = job.learner.train(job.start, train, validation, training, plan)
    # Or the models that are compared next would come on top of what the training has freed.
    collect_memory(computing_device(job.settings.trainer))
    return trained


def _corpus(folder: Path) -> list[dict[str, Any]]:
    path = folder / _CORPUS
    return records_of(read_rows(path)) if path.exists() else []


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint of a job, None if there is none yet.

    Raises:
        UserError: It is cut off.
    """
    path = folder / CHECKPOINTS / LAST_CHECKPOINT
    if not path.exists():
        return None

    # torch writes checkpoints as ZIP files, whose table of contents comes last.
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} must be a whole checkpoint, got a broken one. "
            "Delete it to train from the beginning."
        )
    return path


def _save_model(learner: Learner, model: Any, folder: Path) -> None:
    unfinished = folder / f".{MODEL}"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        learner.save(model, unfinished)
        # The model of an attempt that died before its result; no rename replaces a full folder.
        shutil.rmtree(folder / MODEL, ignore_errors=True)
        os.replace(unfinished, folder / MODEL)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"the trained model can't be written to {folder}: {error}. "
            "Free some space, or name another output_dir."
        ) from error
