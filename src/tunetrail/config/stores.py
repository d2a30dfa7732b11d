"""Where rows, runs and models are kept."""

import os
from dataclasses import dataclass


@dataclass(kw_only=True)
class DatabaseConfig:
    """Where sessions and samples live: an SQLAlchemy URL (SQLite or `postgresql+psycopg://`)."""

    url: str = "sqlite:///tunetrail.db"


def default_database_url() -> str:
    """Return $TUNETRAIL_DATABASE_URL, else a SQLite file in the folder that tunetrail is started in."""
    return os.environ.get("TUNETRAIL_DATABASE_URL") or DatabaseConfig().url


@dataclass(kw_only=True)
class TrackingConfig:
    """Where MLflow keeps runs and the model registry; `artifacts` is used for a new local experiment only."""

    uri: str = "sqlite:///mlflow.db"
    artifacts: str = "mlartifacts"
    experiment: str = "tunetrail"


SWEEP_RUN_VARIABLE = "TUNETRAIL_SWEEP_RUN"
"""Environment variable with the MLflow run of the sweep that this process is a job of."""


SWEPT_KEYS_VARIABLE = "TUNETRAIL_SWEPT_KEYS"
"""Environment variable with the keys that the sweep varies, separated by commas."""
