"""Settings of the stores: where rows, runs and models are kept."""

import os
from dataclasses import dataclass

SWEEP_RUN_VARIABLE = "TUNETRAIL_SWEEP_RUN"
"""Environment variable with the MLflow run of the sweep that this process is a job of."""

SWEPT_KEYS_VARIABLE = "TUNETRAIL_SWEPT_KEYS"
"""Environment variable with the keys that the sweep varies, separated by commas."""


@dataclass(kw_only=True)
class DatabaseConfig:
    """Where sessions, samples, training runs and the ledger of promotions are stored."""

    url: str = "sqlite:///tunetrail.db"
    """SQLAlchemy URL, SQLite or `postgresql+psycopg://`. The groups `database=default` and
    `database=postgres` read it from `$TUNETRAIL_DATABASE_URL`, so that no password stands
    in a file."""


def default_database_url() -> str:
    """Return $TUNETRAIL_DATABASE_URL, or a SQLite file in the current folder."""
    # An empty variable counts as none.
    return os.environ.get("TUNETRAIL_DATABASE_URL") or DatabaseConfig().url


@dataclass(kw_only=True)
class TrackingConfig:
    """Where MLflow keeps runs and the model registry."""

    uri: str = "sqlite:///mlflow.db"
    """MLflow's tracking URI: a file in the folder that tunetrail is started in, or a server
    (`tracking=server` takes `$MLFLOW_TRACKING_URI`)."""

    artifacts: str = "mlartifacts"
    """Folder for artifacts and model versions; only used when an experiment is made in a
    local store."""

    experiment: str = "tunetrail"
    """Name of the MLflow experiment that the runs belong to."""
