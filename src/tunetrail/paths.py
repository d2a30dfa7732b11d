"""Paths: where tunetrail's files and a store's file are; folders and private files are made."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tunetrail.errors import not_writable

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    # A wheel holds the folder within the package, a checkout at its root.
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parents[1] / name


def conf_dir() -> Path:
    """Return the folder of Hydra's groups, in which train.yaml is."""
    return _shipped("conf")


def experiments_dir() -> Path:
    """Return the folder of the experiments that come with tunetrail."""
    return _shipped("experiments")


def cache_dir() -> Path:
    """Return $TUNETRAIL_CACHE, or else the folder `tunetrail` in the user's cache folder."""
    configured = os.environ.get("TUNETRAIL_CACHE")
    if configured:
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunetrail"


def made_folder(folder: Path) -> Path:
    """Make the folder for results, which only its owner can read, and return it.

    Raises:
        ConfigError: The folder can't be made.
    """
    try:
        return private_folder(folder)
    except OSError as error:
        raise not_writable("output_dir", folder, error) from error


def private_folder(folder: Path) -> Path:
    """Make a folder for samples, which only its owner can read, and return it.

    A folder that exists keeps its mode: its owner may share it on purpose. Parents that are
    missing get the usual mode.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def private_file(path: Path) -> Path:
    """Make an empty file for samples, which only its owner can read, and return its path.

    A file that exists keeps its mode and its content. Whoever opens the file to write to it keeps
    its mode as well.
    """
    # Not `touch` alone, which needs write access to a file that exists.
    if not path.exists():
        path.touch(mode=0o600)
    return path


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` if the block ends without an error.

    Only its owner can read it. It is on the disk when the block has ended: after a crash, there is
    the old file or the whole new one.
    """
    # In the same folder: a rename is atomic within one file system only.
    unfinished = path.with_name(f".{path.name}")
    with open(private_file(unfinished), "wb") as file:
        yield file
        file.flush()
        # Without it, a power cut may leave the new name with nothing in it.
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def give_usual_modes(folder: Path) -> None:
    """Give a folder and all that is in it the modes that the umask gives new files and folders.

    Libraries make some files of a model readable by their owner only, and others not.
    """
    probe = folder / ".mode"
    probe.mkdir()
    folder_mode = probe.stat().st_mode & 0o777
    probe.rmdir()

    for path in (folder, *folder.rglob("*")):
        # A file of a model is read, never run.
        path.chmod(folder_mode if path.is_dir() else folder_mode & 0o666)


def size_in_mib(folder: Path) -> float:
    """Return the size of all files of a folder in MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def write_private_text(path: Path, text: str) -> None:
    """Write a file in UTF-8 that only its owner can read, since it quotes samples."""
    private_file(path).write_text(text, encoding="utf-8")


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a SQLite store, or None if the store is a server."""
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).resolve() if uri.startswith(prefix) else None


def is_missing_file(uri: str) -> bool:
    """Tell whether a store is a SQLite file that doesn't exist, which opening it would make."""
    file = sqlite_file(uri)
    return file is not None and not file.exists()


def shown_uri(text: str) -> str:
    """Return a URI, or a text with URIs in it, without their passwords."""

    def hide(credentials: re.Match[str]) -> str:
        slashes, (user, colon, _) = credentials[1], credentials[2].partition(":")
        return f":{slashes}{user}:***@" if colon else f":{slashes}***@"

    # Up to the last @, as a password may contain one that nobody has escaped. With one slash, it is
    # no URL, but whoever typed it meant one; except for a version, such as `models:/llm@root`.
    without = re.sub(r"(?<=\w)(?<!\bmodels):(/{1,3})([^\s'\"]*)@", hide, text)
    return re.sub(
        r"([?&][^=&\s]*(?:password|token|secret)[^=&\s]*=)[^&\s]*",
        r"\1***",
        without,
        flags=re.IGNORECASE,
    )
