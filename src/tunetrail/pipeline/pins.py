"""Pins: what the jobs of a sweep begin with, so that they can be compared whenever they begin."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from tunetrail.stores.database.manager import SampleSnapshot


@dataclass(frozen=True, kw_only=True)
class Pins:
    """The samples and the root of a moment.

    Attributes:
        samples: The samples of each session, by its id.
        root: The version that was root; None before the first promotion.
    """

    samples: Mapping[str, SampleSnapshot]
    root: str | None

    def last_id(self, session_id: str) -> int:
        """Return the id of the last sample of a session that counts."""
        return self.samples[session_id].last_id

    def to_plain(self) -> dict[str, Any]:
        """Return the pins as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Return the pins that `to_plain` gave."""
        samples = {
            session_id: SampleSnapshot(**values) for session_id, values in plain["samples"].items()
        }
        return cls(samples=samples, root=plain["root"])
