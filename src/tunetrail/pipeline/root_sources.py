"""Sources of root: the registry or the exported folder, each of which knows the present version.

Every model is read by our own loaders, from files whose digests were compared.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tunetrail.config import Settings, TrackingConfig
from tunetrail.deployment.digests import digest_folder, read_listing
from tunetrail.deployment.export import exported_root, exported_version
from tunetrail.deployment.flavors import LanguageModelFlavor
from tunetrail.deployment.model_version import ModelVersion
from tunetrail.deployment.registry import Registry
from tunetrail.errors import (
    ConfigError,
    DeploymentError,
    ModelError,
    UserError,
    did_you_mean,
)
from tunetrail.learning.language_model.answering import AnsweringModel
from tunetrail.learning.models.folders import check_plain_files
from tunetrail.pipeline.families import ALL_FAMILIES, requested_families
from tunetrail.pipeline.looks import recorded_digest
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.runs.quick_alias import quick_alias
from tunetrail.stores.tracking.tracker import existing_store, shown_uri


@dataclass(frozen=True, kw_only=True)
class LoadedVersion:
    """A version that was loaded onto the CPU.

    Attributes:
        name: Name of the registered model.
        version: Number of the version.
        model: A `SentenceTransformer`; an `AnsweringModel` if it is a language model.
    """

    name: str
    version: str
    model: Any

    def __str__(self) -> str:
        """Return `embedding/3`."""
        return f"{self.name}/{self.version}"


class RootSource(Protocol):
    """Where root of one family comes from."""

    @property
    def family(self) -> ModelFamily:
        """The family."""

    @property
    def name(self) -> str:
        """Name of the registered model."""

    def version(self) -> str | None:
        """Return the version that is root now, without loading it; None if there is none."""

    def load(self) -> LoadedVersion:
        """Load root.

        Raises:
            UserError: There is no root.
            DeploymentError: Its files are gone or broken, or aren't those that were promoted.
        """


class RegisteredRoot:
    """Root, and the versions before it, as an MLflow store has them.

    Args:
        name: Name of the registered model: a family's, with the prefix of `tracking.prefix`.
        tracking_uri: The MLflow store.
        database_url: The database whose ledger tells the digests of files; None if only the tags of
            the versions tell them.

    Raises:
        ConfigError: The name ends with no family's name.
        UserError: There is no such store.
    """

    def __init__(self, name: str, tracking_uri: str, database_url: str | None = None) -> None:
        self.family = family_of(name)
        self.name = name
        self.database_url = database_url
        tracker = existing_store(tracking_uri)
        self.registry = Registry(tracker, name, self.family.flavor, self._read_digest)

    def version(self) -> str | None:
        """Return the version that the alias names; it is asked for again and again, so quickly."""
        # Read from SQLite itself where that is the store: MLflow takes far longer to open one.
        alias = quick_alias(self.registry.tracker.config.uri, self.name)
        return self.registry.alias.version() if alias is None else alias.version

    def load(self) -> LoadedVersion:
        """Load the version that the alias names."""
        return self.load_version(self.root_version())

    def load_version(self, version: ModelVersion) -> LoadedVersion:
        """Load a version; raises `DeploymentError` if its files aren't what was registered."""
        model = applicable(self.registry.load(version), self.family)
        return LoadedVersion(name=self.name, version=version.version, model=model)

    def root_version(self) -> ModelVersion:
        """Return the version that is root; raises `UserError` if there is none."""
        root = self.registry.root()
        if root is None:
            raise UserError(
                f"family must have a root, got {self.name!r} without one in "
                f"{shown_uri(self.registry.tracker.config.uri)}. "
                "Train a model that passes the gate."
            )
        return root

    def _read_digest(self, version: str, run_id: str) -> str | None:
        if self.database_url is None:
            return None
        with DatabaseManager(self.database_url) as database:
            return recorded_digest(database.promotions(self.name), version, run_id)


class ExportedRoot:
    """Root as it was exported to a folder, for machines without any store.

    Args:
        name: Name of the registered model.
        model_dir: The folder of all exported models.
    """

    def __init__(self, name: str, model_dir: Path) -> None:
        self.family = family_of(name)
        self.name = name
        self.model_dir = model_dir

    def version(self) -> str | None:
        """Return the version that the link points at."""
        return exported_version(self.model_dir, self.name)

    def load(self) -> LoadedVersion:
        """Load the folder that the link points at, and compare it with the list in it."""
        link = exported_root(self.model_dir, self.name)
        # Resolved first: the link may move to another version while the files are read.
        folder = link.resolve()
        if not folder.is_dir():
            raise UserError(
                f"model_dir must be a folder with an exported {self.name} model, got "
                f"{str(self.model_dir)!r}: there is no {link}. Name another folder, or train a "
                "model."
            )

        advice = "Export it again: promote a version, or copy the folder from a backup."
        try:
            check_plain_files(folder)
            listing = read_listing(folder)
            difference = "" if listing is None else digest_folder(folder).difference(listing)
            if difference:
                raise DeploymentError(
                    f"the files of {link} must be those that were exported, got others "
                    f"({difference}). {advice}"
                )
            model = applicable(self.family.flavor.load(str(folder)), self.family)
        except (ModelError, OSError, RuntimeError, ValueError) as error:
            raise DeploymentError(f"{link} can't be loaded: {error} {advice}") from error
        return LoadedVersion(name=self.name, version=folder.name, model=model)


def root_source(
    family: str,
    *,
    settings: Settings | None = None,
    tracking_uri: str | None = None,
    database_url: str | None = None,
    model_dir: str | Path | None = None,
) -> RootSource:
    """Return where root of a family comes from; the arguments are `load_root`'s."""
    if settings is not None and not isinstance(settings, Settings):
        raise ConfigError(
            "settings must be a tunetrail.config.Settings, such as node.settings, got a value of "
            f"type {type(settings).__name__}. Leave it out to use the stores of this folder."
        )

    tracking = settings.tracking if settings else TrackingConfig()
    name = tracking.registered_name(family)
    if model_dir is not None:
        return ExportedRoot(name, Path(model_dir))
    if database_url is None and settings is not None:
        database_url = settings.database.url
    return RegisteredRoot(name, tracking_uri or tracking.uri, database_url)


def family_of(name: str) -> ModelFamily:
    """Return the family of a registered model, whose name may begin with any prefix.

    Raises:
        ConfigError: The name ends with no family's name.
    """
    families = requested_families(ALL_FAMILIES)
    matching = [family for family in families if name.endswith(family.name)]
    if not matching:
        known = [family.name for family in families]
        raise ConfigError(
            f"family must be one of {', '.join(known)}, or a registered model whose name ends with "
            f"one of them, got {name!r}.{did_you_mean(name, known)}"
        )
    # A package's family may end with another one's name: the longest is meant.
    return max(matching, key=lambda family: len(family.name))


def applicable(model: Any, family: ModelFamily) -> Any:
    """Return a family's model in the form that applications use."""
    # Applications ask for answers, not for logits.
    if isinstance(family.flavor, LanguageModelFlavor):
        return AnsweringModel(model=model.model, tokenizer=model.tokenizer)
    return model
