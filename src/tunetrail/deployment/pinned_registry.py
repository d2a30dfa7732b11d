"""The registry as an earlier run saw it: root is the version that was root then, and stays it."""

from collections.abc import Mapping
from typing import Any, NoReturn

from tunetrail.deployment.flavors import Flavor
from tunetrail.deployment.model_version import DIGEST_TAG, ModelVersion
from tunetrail.deployment.registry import ReadDigest, Registry, no_digest
from tunetrail.errors import DeploymentError, UserError
from tunetrail.stores.tracking.tracker import Tracker


class PinnedRegistry(Registry):
    """The versions of one family, to read from only.

    Args:
        tracker: The MLflow store.
        name: The name under which the versions are registered.
        flavor: How a version is read.
        pinned: The version that was root; None for the time before the first promotion.
        read_digest: As for `Registry`.

    Raises:
        UserError: The version was deleted.
    """

    def __init__(
        self,
        tracker: Tracker,
        name: str,
        flavor: Flavor,
        pinned: str | None,
        read_digest: ReadDigest = no_digest,
    ) -> None:
        super().__init__(tracker, name, flavor, read_digest)
        self._pinned = None if pinned is None else self._version(pinned)

    def root(self) -> ModelVersion | None:
        """Return the version that was root, wherever the alias is now."""
        return self._pinned

    def _version(self, number: str) -> ModelVersion:
        version = self.alias.find(number)
        if version is None:
            raise UserError(
                f"models:/{self.name}/{number} was root when the run or its sweep began, and must "
                "still be in MLflow, but was deleted. Nothing can begin with it again."
            )
        return ModelVersion(
            name=self.name,
            version=number,
            base_model=version.tags.get("tunetrail.base_model"),
            digest=version.tags.get(DIGEST_TAG),
        )

    def register(self, *arguments: Any, **keywords: Any) -> NoReturn:
        """Refuse to register a version."""
        self._refuse()

    def move_root(self, *arguments: Any, **keywords: Any) -> NoReturn:
        """Refuse to move root."""
        self._refuse()

    def tag(self, version: ModelVersion, tags: Mapping[str, str]) -> NoReturn:
        """Refuse to change a version."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise DeploymentError(f"the registry of {self.name} is only read here: nothing is changed.")
