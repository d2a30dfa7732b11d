"""A measured result in the cache, looked up by all the conditions that it was measured under."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tunetrail.cache import ResultCache

Result = TypeVar("Result")
# Counts up when a result of the same conditions means something else.
_FORMAT = 1


@dataclass(frozen=True)
class CachedResult:
    """A result in the cache, looked up by all that it depends on.

    Attributes:
        cache: The cache; None if results aren't kept.
        kind: What was measured, in words.
        dependencies: The conditions, as values that JSON knows.
    """

    cache: ResultCache | None
    kind: str
    dependencies: Mapping[str, Any] = field(repr=False)

    def read(
        self, parse: Callable[[Mapping[str, Any]], Result], *, within_seconds: float = math.inf
    ) -> Result | None:
        """Return the cached result; None if there is none, or it is too old or broken."""
        age = self.age_seconds
        if self.cache is None or age is None or age > within_seconds:
            return None
        try:
            return parse(json.loads(self._file(self.cache).read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def age_seconds(self) -> float | None:
        """How long ago the result was written; None if there is none."""
        try:
            return None if self.cache is None else _seconds_since_written(self._file(self.cache))
        except OSError:
            return None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Let one process at a time look the result up and search for it."""
        if self.cache is None:
            yield
            return
        with self.cache.computing(f"the search of the {self.kind}", str(self._file(self.cache))):
            yield

    def write(self, result: Mapping[str, Any]) -> None:
        """Write the result to the cache, if there is one."""
        if self.cache is not None:
            with self.cache.writing(self._file(self.cache)) as unfinished:
                unfinished.write_text(json.dumps(result))

    def _file(self, cache: ResultCache) -> Path:
        # A result counts only for equal conditions, so all of them are its name.
        key = json.dumps({"format": _FORMAT, **self.dependencies}, sort_keys=True, default=str)
        return cache.place(self.kind, key) / "found.json"


def _seconds_since_written(file: Path) -> float:
    return max(time.time() - file.stat().st_mtime, 0.0)
