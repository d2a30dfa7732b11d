import csv
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.pipeline.jobs import write_job

from tunetrail.config import (
    AdapterConfig,
    EmbeddingConfig,
    FeatureEngineeringConfig,
    HardNegativesConfig,
    LanguageModelConfig,
    PreparationConfig,
    Settings,
    TrainingConfig,
)
from tunetrail.config.trainer import TrainerConfig
from tunetrail.errors import TrainingError, UserError
from tunetrail.evaluation.scores import Scores
from tunetrail.pipeline.jobs import (
    TrainingJob,
    last_checkpoint,
    run_fit_job,
    run_fold_job,
)


def six_steps(embedding_model: str, language_model: str) -> Settings:
    """Six steps, with negatives mined again after every second."""
    training = TrainingConfig(
        batch_size=8,
        learning_rate=1e-3,
        warmup_steps=0,
        num_epochs=3,
        logging_steps=1,
        early_stopping_patience=0,
    )
    mining = HardNegativesConfig(enabled=True, margin=0.0, remine_every_epochs=1)
    return Settings(
        preparation=PreparationConfig(cache_gigabytes=0.0),
        feature_engineering=FeatureEngineeringConfig(hard_negatives=mining),
        embedding=EmbeddingConfig(model=embedding_model, training=training),
        llm=LanguageModelConfig(
            model=language_model, training=training, adapter=AdapterConfig(rank=2, alpha=4)
        ),
    )


@pytest.fixture
def settings(tiny_embedding_model: str, tiny_language_model: str) -> Settings:
    """Settings that the test may change."""
    return six_steps(tiny_embedding_model, tiny_language_model)


@pytest.fixture(scope="module")
def finished_fit(
    tmp_path_factory: pytest.TempPathFactory, tiny_embedding_model: str, tiny_language_model: str
) -> tuple[Path, dict[str, Any]]:
    """The folder of a fit job that nothing has interrupted, and its measurements."""
    settings = six_steps(tiny_embedding_model, tiny_language_model)
    folder = write_job(tmp_path_factory.mktemp("finished") / "fit", settings)
    return folder, run_fit_job(folder)


@pytest.fixture(scope="module")
def finished_fold(
    tmp_path_factory: pytest.TempPathFactory, tiny_embedding_model: str, tiny_language_model: str
) -> tuple[Path, Scores]:
    """The folder of a fold job that nothing has interrupted, and its scores."""
    settings = six_steps(tiny_embedding_model, tiny_language_model)
    folder = write_job(tmp_path_factory.mktemp("finished") / "fold-1", settings)
    return folder, run_fold_job(folder)


def weights(folder: Path) -> str:
    (file,) = (folder / "model").rglob("*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def same_scores(first: Scores, second: Scores) -> bool:
    """Tell whether metrics and the values of every row are the same to the last digit."""
    return first.to_dict() == second.to_dict() and first.table().equals(second.table())


class Steps:
    """Remembers the steps that report a loss; asks the training to stop at one of them."""

    def __init__(self, last: int = 0) -> None:
        self.seen: list[int] = []
        self.last = last

    def __call__(self, metrics: Mapping[str, float], step: int) -> None:
        if "train/loss" not in metrics:
            return
        self.seen.append(step)
        # Once: a second signal, as after the validation of this step, would be obeyed at once.
        if step == self.last:
            os.kill(os.getpid(), signal.SIGTERM)


def test_job_comes_back_as_it_was_written_but_for_its_connections(
    settings: Settings, tmp_path: Path
) -> None:
    settings.database.url = "postgresql://me:hunter2@host/db"

    folder = write_job(tmp_path / "fit", settings)
    job = TrainingJob.read(folder)

    settings.database.url = ""
    assert job.settings == settings
    assert (job.shape, job.start, job.budget) == ("pair", settings.embedding.model, 1.0)
    assert "hunter2" not in (folder / "job.json").read_text()


@pytest.mark.processes
@pytest.mark.parametrize("model_type", ["embedding", "llm"])
def test_fit_job_gives_the_same_weights_in_a_process_of_its_own(
    settings: Settings, tmp_path: Path, model_type: str
) -> None:
    here = write_job(tmp_path / "here", settings, model_type)
    elsewhere = write_job(tmp_path / "elsewhere", settings, model_type)
    code = (
        "import pathlib, sys; from tunetrail.pipeline.jobs import run_fit_job; "
        "run_fit_job(pathlib.Path(sys.argv[1]))"
    )

    measurements = run_fit_job(here)
    subprocess.run(
        [sys.executable, "-c", code, str(elsewhere)], check=True, capture_output=True, cwd=tmp_path
    )

    assert weights(elsewhere) == weights(here)
    again = run_fit_job(elsewhere)
    assert again["best_validation_loss"] == measurements["best_validation_loss"]
    assert again["steps"] == measurements["steps"] == 6
    assert again["history"]["train/loss"] == measurements["history"]["train/loss"]


def test_fit_job_that_is_done_is_not_done_again(
    finished_fit: tuple[Path, dict[str, Any]],
) -> None:
    (folder, measurements), steps = finished_fit, Steps()

    again = run_fit_job(folder, steps)

    assert again == measurements
    assert steps.seen == []
    assert not (folder / "checkpoints").exists()


def test_fit_job_goes_on_from_where_it_was_interrupted(
    settings: Settings, tmp_path: Path, finished_fit: tuple[Path, dict[str, Any]]
) -> None:
    interrupted = write_job(tmp_path / "fit", settings)
    with pytest.raises(SystemExit):
        run_fit_job(interrupted, Steps(last=3))

    steps = Steps()
    run_fit_job(interrupted, steps)

    assert steps.seen == [4, 5, 6]
    assert weights(interrupted) == weights(finished_fit[0])


def test_fit_job_logs_to_the_loggers_that_its_settings_name(
    settings: Settings, tmp_path: Path
) -> None:
    settings.trainer = TrainerConfig(
        logger={"curves": {"_target_": "CSVLogger"}},
        callbacks={"rates": {"_target_": "LearningRateMonitor"}},
    )
    settings.database.url = settings.tracking.uri = "postgresql://me:hunter2@host/db"
    reports: list[tuple[int, set[str]]] = []

    folder = write_job(tmp_path / "fit", settings)
    run_fit_job(folder, lambda metrics, step: reports.append((step, set(metrics))))

    logs = folder / "logs" / "curves" / "version_0"
    with (logs / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = [
        (int(row.pop("step")), {name for name, value in row.items() if value}) for row in rows
    ]
    assert logged == reports
    assert (5, {"lr-AdamW/pg1", "lr-AdamW/pg2"}) in reports
    parameters = (logs / "hparams.yaml").read_text()
    assert "embedding.training.num_epochs: 3" in parameters
    assert all("hunter2" not in path.read_text() for path in folder.rglob("*.yaml"))


def test_fold_job_has_no_callbacks_and_no_loggers(settings: Settings, tmp_path: Path) -> None:
    settings.trainer = TrainerConfig(
        logger={"curves": {"_target_": "CSVLogger"}},
        callbacks={"limit": {"_target_": "Timer", "duration": {"seconds": 0}}},
    )
    steps = Steps()

    run_fold_job(write_job(tmp_path / "fold-1", settings), steps)

    assert steps.seen == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "fold-1" / "logs").exists()


def test_fit_job_says_where_its_model_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    folder = write_job(tmp_path / "fit", settings)
    (folder / ".model").touch()

    with pytest.raises(TrainingError, match=r"model can't be written to .*fit: .* Free some space"):
        run_fit_job(folder)


@pytest.mark.parametrize("model_type", ["embedding", "llm"])
def test_fold_job_goes_on_from_where_it_was_interrupted(
    settings: Settings, tmp_path: Path, finished_fold: tuple[Path, Scores], model_type: str
) -> None:
    interrupted = write_job(tmp_path / "interrupted", settings, model_type)
    scores = finished_fold[1]
    if model_type == "llm":
        scores = run_fold_job(write_job(tmp_path / "undisturbed", settings, model_type))
    with pytest.raises(SystemExit):
        run_fold_job(interrupted, Steps(last=3))

    steps = Steps()
    resumed = run_fold_job(interrupted, steps)

    assert same_scores(resumed, scores)
    assert steps.seen == [4, 5, 6]


def test_fold_job_keeps_its_scores_and_not_its_model(finished_fold: tuple[Path, Scores]) -> None:
    (folder, scores), steps = finished_fold, Steps()

    again = run_fold_job(folder, steps)

    assert same_scores(again, scores) and steps.seen == []
    assert again.row_ids == list(range(8)) and again.examples == 8
    assert sorted(path.name for path in folder.iterdir()) == ["job.json", "scores.parquet"]


def test_last_checkpoint_is_whole(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": {"weight": torch.ones(1000)}}, path)
    assert last_checkpoint(tmp_path) == path
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(
        UserError,
        match=r"last.ckpt must be a whole checkpoint, got a broken one. Delete it to train",
    ):
        last_checkpoint(tmp_path)
