"""load_root: the trusted model of a family, for applications."""

from pathlib import Path
from typing import Any

from tunetrail.config import Settings
from tunetrail.pipeline.root_sources import root_source
from tunetrail.verbosity import saying


@saying(None)
def load_root(
    family: str,
    *,
    settings: Settings | None = None,
    tracking_uri: str | None = None,
    database_url: str | None = None,
    model_dir: str | Path | None = None,
) -> Any:
    """Load the root model of a family onto the CPU, from the very files that were promoted.

    Args:
        family: `embedding` or `llm`.
        settings: Settings that name the MLflow store, its prefix and the database, such as a
            `ModelTrainingNode`'s. The other arguments take precedence.
        tracking_uri: The MLflow store; by default `sqlite:///mlflow.db`.
        database_url: The database whose ledger tells the digest of root's files; without it, the
            version's own tag tells it.
        model_dir: The folder of exported models to load root from instead, without any store. Its
            files are compared with the list that was exported with them.

    Returns:
        The `SentenceTransformer`; for `llm`, an object with `model`, `tokenizer`, `generate(text)`
        and `chat(messages)`.

    Raises:
        UserError: There is no such family or store, or the family has no root.
        DeploymentError: The files are gone or broken, or aren't those that were promoted.
        TrackingError: The store can't be reached or read.
    """
    source = root_source(
        family,
        settings=settings,
        tracking_uri=tracking_uri,
        database_url=database_url,
        model_dir=model_dir,
    )
    return source.load().model
