"""Jobs of trainings on a few rows, as folders."""

from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from tests.families import embedding_folder

from tunetrail.config import EmbeddingConfig, PreparationConfig, Settings, TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.data.rows import rows_frame
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.jobs import JobRows, TrainingJob
from tunetrail.samples import SampleKind, parse_sample

FIT_AND_TELL = """
import json, pathlib, sys
from tunetrail.pipeline.jobs import run_fit_job

def tell(metrics, step):
    print(json.dumps([step, sorted(metrics)]), flush=True)

run_fit_job(pathlib.Path(sys.argv[1]), tell)
"""
"""A script that fits the job of a folder, and prints a line for each report."""

SUBJECTS = [f"{noun} number {count}" for noun in ("snow", "fire", "bread") for count in range(8)]


def rows_of(model_type: str, subjects: list[str]) -> pd.DataFrame:
    first, second = ("anchor", "positive") if model_type == "embedding" else ("input", "output")
    samples = [
        parse_sample({first: f"what is {subject}", second: f"{subject}!"}, SampleKind(model_type))
        for subject in subjects
    ]
    return rows_frame(enumerate(samples))


def write_job(folder: Path, settings: Settings, model_type: str = "embedding") -> Path:
    """Write a job with 16 train rows; negatives are mined again if the settings say so."""
    train = rows_of(model_type, SUBJECTS[:16])
    mining = settings.feature_engineering.hard_negatives
    is_mined = model_type == "embedding" and mining.enabled
    JobRows(
        train=train,
        validation=rows_of(model_type, SUBJECTS[16:]),
        before_mining=train if is_mined else None,
    ).write(folder)
    TrainingJob(
        model_type=model_type,
        shape="pair" if model_type == "embedding" else "completion",
        settings=settings,
        start=family_named(model_type).section(settings).model,
        auto_values=AutoValues(),
    ).write(folder)
    return folder


def settings_of_two_ranks(folder: Path, launcher: str = "local") -> Settings:
    """Eight steps on two ranks, without dropout: its draws depend on the rank."""
    path = embedding_folder(folder / "bert", "bert")
    training = TrainingConfig(
        batch_size=8,
        learning_rate=1e-3,
        warmup_steps=0,
        num_epochs=4,
        logging_steps=1,
        early_stopping_patience=0,
    )
    return Settings(
        preparation=PreparationConfig(cache_gigabytes=0.0),
        embedding=EmbeddingConfig(model=path, max_length=64, training=training),
        trainer=TrainerConfig(accelerator="cpu", devices=2, launcher=launcher),
    )


def weights_of(folder: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights of the only model below a folder."""
    (file,) = Path(folder).rglob("*.safetensors")
    return load_file(file)
