"""Settings of the stores: where rows, runs and models are kept."""

import os
import re
from dataclasses import dataclass

from tunetrail.config.checks import Rule, at_least, check_settings, setting


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


# A name of a registered model becomes a folder, and a word of the command line.
_PREFIX = Rule(
    "empty, or at most 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    lambda prefix: re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})?", prefix) is not None,
)

# MLflow keeps no longer name, and would say so only once the training is recorded.
_EXPERIMENT = Rule(
    "a name of 1 to 500 characters, not all of them blank",
    lambda name: len(name) <= 500 and bool(name.strip()),
)


@dataclass(kw_only=True)
class RetentionConfig:
    """What stays on the disk after a training."""

    keep_versions: int | None = setting(
        None, at_least(2, ", as root and the newest version always stay")
    )
    """How many versions of a model stay after a training of it has ended: root, the root before
    it, then the newest. Older ones are deleted with their files and the artifacts of their runs,
    which is printed and written to the ledger; parameters and metrics of the runs stay. A version
    that waits for an approval, has another alias, or belongs to a run that can be resumed stays as
    well. By default nothing is deleted: models are lost for good, so you have to ask for it, here
    or with `tunetrail clean`."""

    keep_days: int = setting(30, at_least(0))
    """For how many days a run that failed or was stopped counts as one that will be resumed, so
    that the versions it needs stay."""

    def __post_init__(self) -> None:
        check_settings("retention", self)


@dataclass(kw_only=True)
class TrackingConfig:
    """Where MLflow keeps runs and the model registry."""

    uri: str = "sqlite:///mlflow.db"
    """MLflow's tracking URI: a file in the folder that tunetrail is started in, or a server
    (`tracking=server` takes `$MLFLOW_TRACKING_URI`)."""

    artifacts: str = "mlartifacts"
    """Folder, or URI such as `s3://BUCKET/FOLDER`, of artifacts and model versions. It is fixed
    when the experiment is made; a server has a place of its own unless a URI is given."""

    experiment: str = setting("tunetrail", _EXPERIMENT)
    """Name of the MLflow experiment that the runs belong to."""

    system_metrics: bool = True
    """Whether the use of CPU, memory, disk, network and GPU is logged with a training's run, every
    ten seconds: MLflow shows it under *System metrics*."""

    patience_seconds: int = setting(300, at_least(0))
    """Seconds that a run waits for an MLflow server that has stopped answering, before it fails and
    can be resumed. The training itself never waits: metrics are kept below `output_dir` until the
    server answers or `tunetrail sync` delivers them."""

    prefix: str = setting("", _PREFIX)
    """Beginning of the names of the registered models: with `shop-`, they are `shop-embedding` and
    `shop-llm`, with a root, a ledger and a folder in `model_dir` of their own. Experiments that
    share a store without a prefix share their root."""

    def __post_init__(self) -> None:
        check_settings("tracking", self)

    def registered_name(self, family: str) -> str:
        """Return the name under which the versions of a family are registered."""
        return f"{self.prefix}{family}"
