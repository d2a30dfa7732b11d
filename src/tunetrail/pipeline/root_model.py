"""load_root: the trusted model of a family, for applications."""

from pathlib import Path
from typing import Any

from tunetrail.config import TrackingConfig
from tunetrail.deployment.digests import digest_folder, read_listing
from tunetrail.deployment.flavors import LanguageModelFlavor
from tunetrail.deployment.registry import Registry
from tunetrail.errors import DeploymentError, ModelError, UserError
from tunetrail.learning.language_model.answering import AnsweringModel
from tunetrail.learning.models.folders import check_plain_files
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.looks import recorded_digest
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.stores.database import DatabaseManager
from tunetrail.stores.tracking import existing_store, shown_uri


def load_root(
    family: str,
    *,
    tracking_uri: str | None = None,
    database_url: str | None = None,
    model_dir: str | Path | None = None,
) -> Any:
    """Load the root model of a family onto the CPU, from files that are those that were promoted.

    Args:
        family: `embedding` or `llm`.
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
        DeploymentError: The files are gone, broken, or others than those that were promoted.
        TrackingError: The store can't be reached or read.
    """
    model_family = family_named(family)
    if model_dir is not None:
        model = _load_exported(model_family, Path(model_dir))
    else:
        uri = tracking_uri or TrackingConfig().uri
        model = _load_registered(model_family, uri, database_url)

    if isinstance(model_family.flavor, LanguageModelFlavor):
        return AnsweringModel(model=model.model, tokenizer=model.tokenizer)
    return model


def _load_registered(family: ModelFamily, tracking_uri: str, database_url: str | None) -> Any:
    tracker = existing_store(tracking_uri)

    def read_digest(version: str, run_id: str) -> str | None:
        if database_url is None:
            return None
        with DatabaseManager(database_url) as database:
            return recorded_digest(database.promotions(family.name), version, run_id)

    registry = Registry(tracker, family.name, family.flavor, read_digest)
    root = registry.root()
    if root is None:
        raise UserError(
            f"family must have a root, got {family.name!r} without one in "
            f"{shown_uri(tracker.config.uri)}. Train a model that passes the gate."
        )
    return registry.load(root)


def _load_exported(family: ModelFamily, model_dir: Path) -> Any:
    link = model_dir / family.name / "root"
    # Resolved first: the link may move to another version while the files are read.
    folder = link.resolve()
    if not folder.is_dir():
        raise UserError(
            f"model_dir must be a folder with an exported {family.name} model, got "
            f"{str(model_dir)!r}: there is no {link}. Name another folder, or train a model."
        )

    advice = "Export it again: promote a version, or copy the folder from a backup."
    try:
        check_plain_files(folder)
        listing = read_listing(folder)
        difference = "" if listing is None else digest_folder(folder).difference(listing)
        if difference:
            raise DeploymentError(
                f"the files of {link} must be those that were exported, got others ({difference}). "
                f"{advice}"
            )
        return family.flavor.load(str(folder))
    except (ModelError, OSError, RuntimeError, ValueError) as error:
        raise DeploymentError(f"{link} can't be loaded: {error} {advice}") from error
