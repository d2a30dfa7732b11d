"""Digests of a model's files, by which a model is recognised when it is read again.

The list of a folder's files has the form of `sha256sum`, sorted by path; the digest of the folder
is the SHA-256 of the list. So one short text stands for every byte of every file.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tunetrail.fingerprints import file_fingerprint

LISTING = "SHA256SUMS"
"""The file of a model folder with its list: `sha256sum --check SHA256SUMS` reads it."""

# MLflow writes it into folders that it downloads.
_ADDED_BY_MLFLOW = "registered_model_meta"


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderDigest:
    """The digests of a folder's files.

    Attributes:
        files: SHA-256 in hexadecimal digits by path, relative to the folder and with `/`.
    """

    files: Mapping[str, str]

    @property
    def listing(self) -> str:
        """Return the list: a line for each file, sorted by path."""
        lines = [f"{digest}  {path}\n" for path, digest in sorted(self.files.items())]
        return "".join(lines)

    @property
    def digest(self) -> str:
        """Return the digest of the folder: 64 hexadecimal digits."""
        return digest_of(self.listing)

    def difference(self, listing: str) -> str:
        """Return in words how the files differ from an earlier list; empty if they don't."""
        expected = _parse_listing(listing)
        changed = [
            path for path in self.files if expected.get(path) not in (None, self.files[path])
        ]
        kinds = {
            "changed": changed,
            "missing": expected.keys() - self.files.keys(),
            "added": self.files.keys() - expected.keys(),
        }
        return "; ".join(
            f"{word}: {', '.join(sorted(kinds[word]))}" for word in kinds if kinds[word]
        )


def digest_folder(folder: Path) -> FolderDigest:
    """Read all files of a folder except its list, and return their digests."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (LISTING, _ADDED_BY_MLFLOW):
            files[name] = file_fingerprint(path)
    return FolderDigest(files=files)


def write_listing(digests: FolderDigest, folder: Path) -> None:
    """Write the list of a model's files into a folder."""
    (folder / LISTING).write_text(digests.listing, encoding="utf-8")


def read_listing(folder: Path) -> str | None:
    """Return the list that was written into a folder; None if it has none that can be read."""
    try:
        return (folder / LISTING).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def digest_of(listing: str) -> str:
    """Return the digest of a folder with this list of files."""
    return hashlib.sha256(listing.encode()).hexdigest()


def _parse_listing(listing: str) -> dict[str, str]:
    """Return the digests of a list by path."""
    files = {}
    for line in listing.splitlines():
        digest, _, path = line.partition("  ")
        files[path] = digest
    return files
