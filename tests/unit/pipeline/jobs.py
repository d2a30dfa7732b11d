"""Jobs of trainings on a few rows, as folders."""

from pathlib import Path

import pandas as pd

from tunetrail.config import Settings
from tunetrail.data.rows import rows_frame
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.jobs import JobRows, TrainingJob
from tunetrail.samples import SampleKind, parse_sample

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
