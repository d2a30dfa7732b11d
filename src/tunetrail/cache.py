"""A cache of results on disk: a folder for each result, named by a hash of its inputs."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunetrail.errors import not_writable
from tunetrail.fingerprints import value_fingerprint

_IN_USE_SECONDS = 3600.0
"""A result that was used more recently may be in use by another process and is never removed."""


@dataclass(frozen=True, kw_only=True)
class ResultCache:
    """Folders by the inputs of their results, up to a total size.

    Attributes:
        folder: The folder that holds them all; made by `open`.
        gigabytes: The total size (in 10**9 bytes) above which `prune` removes results.
    """

    folder: Path
    gigabytes: float

    def place(self, *parts: str) -> Path:
        """Return the folder of the result that depends on `parts`; it exists if the result does."""
        key = value_fingerprint(parts)
        path = self.folder / key[:2] / key

        # The time of the folder tells `prune` when the result was last used.
        with contextlib.suppress(OSError):
            os.utime(path)
        return path

    def open(self) -> None:
        """Make the folder, readable by this user only: the results hold samples.

        Raises:
            ConfigError: The folder can't be made or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            advice = "Name another folder, or switch the cache off: preparation.cache_gigabytes=0."
            raise not_writable("preparation.cache_dir", self.folder, error, advice) from error

    @contextlib.contextmanager
    def writing(self, file: Path) -> Iterator[Path]:
        """Yield a path to write to; it is renamed to `file` if the block ends without an error."""
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
        """Remove the least recently used results above the size, and what dead processes left.

        Returns:
            The number of folders that were removed.
        """
        now = time.time()
        results: list[tuple[float, int, Path]] = []
        for path in self.folder.glob("*/*"):
            # Another process may finish or remove the folder at this moment.
            with contextlib.suppress(OSError):
                size = sum(file.stat().st_size for file in path.iterdir())
                results.append((path.stat().st_mtime, size, path))

        total_size = sum(size for _, size, _ in results)
        removed = 0
        for _, size, path in sorted(results):
            is_leftover = path.name.startswith(".")
            if total_size <= self.gigabytes * 1e9 and not is_leftover:
                continue
            if self._remove(path, now):
                total_size -= size
                removed += 1
        return removed

    @staticmethod
    def _remove(path: Path, now: float) -> bool:
        """Remove a folder unless it was used recently, and return whether it was removed."""
        with contextlib.suppress(OSError):
            if now - path.stat().st_mtime >= _IN_USE_SECONDS:
                # Renamed first, so that no process reads half a result.
                leftover = path.with_name(f".gone-{path.name}-{os.getpid()}")
                path.rename(leftover)
                shutil.rmtree(leftover, ignore_errors=True)
                return True
        return False
