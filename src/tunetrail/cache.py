"""Kept results: a folder each, named by a key of all that the result depends on. Knows nothing of what is in them."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
        key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        path = self.folder / key[:2] / key
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        return path

    @contextlib.contextmanager
    def writing(self, file: Path) -> Iterator[Path]:
        """Give a path to write to, which becomes `file`, in the folder of a result, when the block ends well."""
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{os.getpid()}-{file.name}")
        try:
            yield unfinished
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)

    def prune(self) -> int:
        """Remove the longest unused results above the size, and unfinished ones of dead processes; return how many."""
        now = time.time()
        found = [path for path in self.folder.glob("*/*") if path.is_dir()]
        used = {path: path.stat().st_mtime for path in found}
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in found}
        total, removed = sum(sizes.values()), 0
        for path in sorted(found, key=lambda each: used[each]):
            too_much = total > self.gigabytes * 1e9 or path.name.startswith(".")
            if not too_much or now - used[path] < _KEPT_SECONDS:
                continue
            shutil.rmtree(path, ignore_errors=True)
            total -= sizes[path]
            removed += 1
        return removed
