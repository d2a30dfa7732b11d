"""Kept results: a folder each, named by a key of all that the result depends on. Knows nothing of what is in them."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunetrail.errors import ConfigError

_KEPT_SECONDS = 3600.0
"""A result that was used so recently may be in use by another process and is never removed."""


@dataclass(frozen=True, kw_only=True)
class ResultCache:
    """Folders by key, up to a size.

    Attributes:
        folder: Where they lie; made at first use.
        gigabytes: From which size on (10**9 bytes) the longest unused ones are removed.
    """

    folder: Path
    gigabytes: float

    def place(self, *parts: str) -> Path:
        """Return the folder that belongs to a result which depends on `parts`; it exists if the result does."""
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        path = self.folder / key[:2] / key
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def open(self) -> None:
        """Make the folder, for this user's eyes only: what is kept are samples.

        Raises:
            ConfigError: It can't be made or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise ConfigError(
                f"preparation.cache_dir must be a folder that can be written, got {str(self.folder)!r}: "
                f"{error.strerror}. Name another one, or keep nothing with preparation.cache_gigabytes=0."
            ) from error

    @contextlib.contextmanager
    def writing(self, file: Path) -> Iterator[Path]:
        """Give a path to write to, which becomes `file`, in the folder of a result, when the block ends well."""
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".unfinished-", suffix=file.suffix)
        os.close(handle)
        unfinished = Path(name)
        try:
            yield unfinished
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)

    def prune(self) -> int:
        """Remove the longest unused results above the size, and unfinished ones of dead processes; return how many."""
        now = time.time()
        found: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(
                OSError
            ):  # another process finishes or removes it at this moment
                found.append(
                    (
                        path.stat().st_mtime,
                        sum(file.stat().st_size for file in path.iterdir()),
                        path,
                    )
                )
        total, removed = sum(size for _, size, _ in found), 0
        for _, size, path in sorted(found):
            too_much = total > self.gigabytes * 1e9 or path.name.startswith(".")
            if too_much and self._remove(path, now):
                total -= size
                removed += 1
        return removed

    @staticmethod
    def _remove(path: Path, now: float) -> bool:
        """Remove a folder that wasn't used of late; under another name first, so that nobody reads half of it."""
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime >= _KEPT_SECONDS:
                gone = path.with_name(f".gone-{path.name}-{os.getpid()}")
                path.rename(gone)
                shutil.rmtree(gone, ignore_errors=True)
                return True
        return False
