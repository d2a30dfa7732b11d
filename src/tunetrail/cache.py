"""A cache of results on disk: a folder for each result, named by a hash of its inputs."""

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tunetrail.errors import ConfigError, has_room, is_disk_full, not_writable
from tunetrail.fingerprints import value_fingerprint
from tunetrail.locks import file_lock

logger = logging.getLogger(__name__)

_LOCKS = "locks"
# A result that was used more recently may be in use by another process and is never removed.
_IN_USE_SECONDS = 3600.0


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

    def open(self) -> bool:
        """Make the folder, readable by this user only: the results hold samples.

        Returns:
            Whether its disk has room for results; a warning says so if it has none.

        Raises:
            ConfigError: The folder can't be made or written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            tempfile.TemporaryFile(dir=self.folder).close()
            is_usable = has_room(self.folder)
        except OSError as error:
            is_usable = False
            if not is_disk_full(error):
                raise self._not_writable(error) from error
        if not is_usable:
            _say_full(self.folder)
        return is_usable

    def _not_writable(self, error: OSError) -> ConfigError:
        advice = "Name another folder, or switch the cache off: preparation.cache_gigabytes=0."
        return not_writable("preparation.cache_dir", self.folder, error, advice)

    @contextlib.contextmanager
    def computing(self, name: str, *parts: str) -> Iterator[None]:
        """Let one process at a time look up and compute the result that depends on `parts`.

        Processes that need the same result at once, as the jobs of a sweep do, wait here; then
        they find it. Whoever gets the lock has to look the result up again.

        Args:
            name: The result in words, for the log.
            *parts: As for `place`, or something coarser.
        """
        file = self.folder / _LOCKS / f"{value_fingerprint(parts)}.lock"
        with contextlib.ExitStack() as stack:
            # Not every network file system has locks: without, each process computes for itself.
            with contextlib.suppress(OSError):
                stack.enter_context(file_lock(file, name))
                os.utime(file)
            yield

    def array(
        self, name: str, *parts: str, compute: Callable[[], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """Return the array that depends on `parts`, from the cache or computed once.

        Args:
            name: The array in words, for the log.
            *parts: Everything that the array depends on.
            compute: Returns it; dtype and shape stay.
        """
        file = self.place(*parts) / "array.npy"
        cached = read_array(file)
        if cached is not None:
            return cached

        with self.computing(name, *parts):
            cached = read_array(file)
            if cached is None:
                cached = compute()
                with self.writing(file) as unfinished:
                    np.save(unfinished, cached, allow_pickle=False)
        return cached

    @contextlib.contextmanager
    def writing(self, file: Path) -> Iterator[Path]:
        """Yield a path to write to; it is renamed to `file` if the block ends without an error.

        On a full disk the block ends without one as well, and nothing is kept: whoever needs the
        result again has to compute it again.
        """
        with contextlib.ExitStack() as stack:
            is_kept = True
            try:
                unfinished = _unfinished_file(file)
            except OSError as error:
                if not is_disk_full(error):
                    raise
                # Without room for a file, the result goes elsewhere, and then it goes at all.
                is_kept = False
                elsewhere = stack.enter_context(tempfile.TemporaryDirectory())
                unfinished = Path(elsewhere) / file.name
                _say_full(self.folder)
            stack.callback(unfinished.unlink, missing_ok=True)

            try:
                yield unfinished
                if is_kept:
                    unfinished.replace(file)
            except OSError as error:
                if not is_disk_full(error, self.folder):
                    raise
                _say_full(self.folder)

    def prune(self) -> int:
        """Remove the least recently used results above the size, and what dead processes left.

        Returns:
            The number of folders that were removed.
        """
        now = time.time()
        _remove_unused_locks(self.folder / _LOCKS, now)
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

    def unfinished(self) -> list[Path]:
        """Return what processes have left that died while they wrote or removed a result."""
        now = time.time()
        paths = [*self.folder.glob("*/.*"), *self.folder.glob("*/*/.unfinished-*")]
        return sorted(path for path in paths if _unused_seconds(path, now) >= _IN_USE_SECONDS)

    def unused(self, seconds: float) -> list[Path]:
        """Return the folders of results that nothing has used for some seconds."""
        now = time.time()
        folders = [path for path in self.folder.glob("*/[!.]*") if path.is_dir()]
        limit = max(seconds, _IN_USE_SECONDS)
        return sorted(path for path in folders if _unused_seconds(path, now) >= limit)

    def remove(self, path: Path) -> bool:
        """Remove a result or an unfinished one; return False if it is in use by now."""
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return True
        return self._remove(path, time.time())

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


def _unfinished_file(file: Path) -> Path:
    """Make an empty file next to another one, in a folder that is made if it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".unfinished-", suffix=file.suffix)
    os.close(handle)
    return Path(name)


@functools.cache
def _say_full(folder: Path) -> None:
    logger.warning(
        "the disk of the cache %s is full: what can't be kept there is computed again by the next "
        "run. Free some space, or name another folder with preparation.cache_dir.",
        folder,
    )


@contextlib.contextmanager
def complete_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to; it is renamed to `folder` if the block ends without an error.

    If another process was faster, its folder stays: both hold the same result.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Next to the result, because a rename is atomic only within one file system.
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".unfinished-"))
    try:
        yield unfinished
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _unused_seconds(path: Path, now: float) -> float:
    """Return the time since a path was last used; 0 if it is gone."""
    try:
        return now - path.stat().st_mtime
    except OSError:
        return 0.0


def read_array(file: Path) -> npt.NDArray[Any] | None:
    """Return the array of a file, or None if it doesn't exist or is broken."""
    try:
        array: npt.NDArray[Any] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array


def _remove_unused_locks(folder: Path, now: float) -> None:
    """Remove the files of locks that nobody has held for a while."""
    for file in folder.glob("*.lock"):
        # Held or gone: somebody else uses it, or removes it at this moment.
        with contextlib.suppress(OSError), file.open("a") as stream:
            if now - file.stat().st_mtime >= _IN_USE_SECONDS:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
