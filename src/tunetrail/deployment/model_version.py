"""What is known of a version in the registry."""

from dataclasses import dataclass, field

DIGEST_TAG = "tunetrail.digest"
"""The tag of a version with the digest of its files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """A version in the registry.

    Attributes:
        name: Name of the registered model.
        version: Number of the version, as text.
        base_model: Name of the base model that it descends from.
        digest: Digest of its files; None before digests were kept. Two records of a version are
            equal whether or not both know it.
    """

    name: str
    version: str
    base_model: str | None
    digest: str | None = field(default=None, compare=False)

    @property
    def uri(self) -> str:
        """Return `models:/name/version`."""
        return f"models:/{self.name}/{self.version}"
