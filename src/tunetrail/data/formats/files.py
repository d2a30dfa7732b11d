"""Find the files that a path stands for, and read their bytes, decompressed and within limits."""

import glob
import gzip
import json
import os
import stat
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from tunetrail.errors import SampleError

LONGEST_ROW = 16 << 20
"""Bytes of a row, or of a line of text.

No model reads more, and without a limit a missing line break or a small compressed file of zeros
would fill the memory.
"""
LARGEST_EXPANSION = 300
"""Decompressed bytes for each compressed byte. Rows compress 3 to 30 times, zeros 1,000 times."""
# Decompressed bytes from which the expansion counts; any smaller file is harmless.
_EXPANSION_FROM = 32 << 20

Binary = Callable[[str], bool]
"""Takes a suffix; tells whether its format is compressed inside, if at all."""

_BLOCK_BYTES = 1 << 20
_DATASET_STATE = "state.json"
_DATASET_SPLITS = "dataset_dict.json"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to read rows from.

    Attributes:
        path: A path, or a URL that fsspec opens.
        name: What messages call it: the path, or the URL without password and query.
        suffix: Its format, such as `.jsonl`.
        compression: `.gz`, `.zst`, or empty.
    """

    path: str
    name: str
    suffix: str
    compression: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether fsspec has to open it."""
        return is_url(self.path)


@dataclass(frozen=True, slots=True)
class SourceFiles:
    """The files that a path stands for, in the order in which they are read.

    Attributes:
        files: The files.
        ignored: Files of the folder that are in no format with rows.
    """

    files: tuple[SourceFile, ...]
    ignored: tuple[str, ...] = ()


def is_url(path: str) -> bool:
    """Tell whether a source is a URL, such as `https://…` or `s3://…`."""
    return "://" in path


def shown_path(path: str) -> str:
    """Return a source as messages may show it: a URL without its password and its query."""
    if not is_url(path):
        return path
    # A signed URL has its signature in the query.
    scheme, location = path.partition("?")[0].split("://", 1)
    host, slash, name = location.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{name}"


def find_files(path: str, suffixes: Collection[str], is_binary: Binary) -> SourceFiles:
    """Return the files that a path, a folder, a glob or a URL stands for.

    Args:
        path: What the user typed.
        suffixes: The suffixes of all formats.
        is_binary: Tells whether the format of a suffix is compressed inside, if at all.

    Raises:
        SampleError: There is no such file, it is empty, or its suffix is unknown.
    """
    if is_url(path):
        file = source_file(path, suffixes, is_binary)
        if file is None:
            raise _unknown_suffix(path, suffixes)
        return SourceFiles((file,))

    with readable(path):
        # A name with brackets is a glob only if no file has it.
        if not Path(path).exists() and glob.has_magic(path):
            matches = sorted(glob.glob(path, recursive=True))
            files = [match for match in matches if Path(match).is_file()]
            if not files:
                raise SampleError(f"{path} matches no file. Check the path.")
            return _files_among(path, files, suffixes, is_binary)
        if Path(path).is_dir():
            return _files_of_folder(Path(path), suffixes, is_binary)

        file = source_file(path, suffixes, is_binary)
        if file is None:
            raise _unknown_suffix(path, suffixes)
        _check_regular(Path(path))
        if Path(path).stat().st_size == 0:
            raise SampleError(f"{path} is empty. Give a file with at least one row.")
    return SourceFiles((file,))


def source_file(path: str, suffixes: Collection[str], is_binary: Binary) -> SourceFile | None:
    """Return the file of a path; None if its suffix belongs to no format."""
    name = shown_path(path)
    file_name = Path(urlsplit(name).path if is_url(path) else name).name.lower()
    compression = next((end for end in _DECOMPRESSORS if file_name.endswith(end)), "")
    suffix = Path(file_name.removesuffix(compression)).suffix

    # Parquet is compressed inside, and its index at the end can't be reached through gzip.
    if suffix not in suffixes or (compression and is_binary(suffix)):
        return None
    return SourceFile(path, name, suffix, compression)


def _unknown_suffix(path: str, suffixes: Collection[str]) -> SampleError:
    way_out = "Name a single file" if is_url(path) else "Convert the file or rename it"
    return SampleError(
        f"the file's suffix must be one of {', '.join(suffixes)} (text formats may be followed by "
        f"{' or '.join(_DECOMPRESSORS)}), got {shown_path(path)!r}. {way_out}."
    )


def _check_regular(path: Path) -> None:
    # Opening a pipe that nobody writes to would wait for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise SampleError(f"{path} must be a regular file, got a device or a pipe. Save it first.")


def _files_of_folder(folder: Path, suffixes: Collection[str], is_binary: Binary) -> SourceFiles:
    """Return the files of a folder and of the folders in it, by name."""
    if (folder / _DATASET_STATE).is_file() or (folder / _DATASET_SPLITS).is_file():
        return SourceFiles(tuple(_files_of_dataset(folder)))

    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    visible = [path for path in paths if not _is_hidden(path.relative_to(folder))]
    return _files_among(str(folder), list(map(str, visible)), suffixes, is_binary)


def _is_hidden(path: Path) -> bool:
    # Such as .git, and the markers _SUCCESS that Spark leaves.
    return any(name.startswith((".", "_")) for name in path.parts)


def _files_among(
    source: str, paths: list[str], suffixes: Collection[str], is_binary: Binary
) -> SourceFiles:
    files, ignored = [], []
    for path in paths:
        file = source_file(path, suffixes, is_binary)
        # Writers of many files leave empty ones.
        if file is None or Path(path).stat().st_size == 0:
            ignored.append(path)
        else:
            files.append(file)

    if not files:
        listed = ", ".join(suffixes)
        raise SampleError(f"{source} must hold files with rows ({listed}), got none of them.")
    return SourceFiles(tuple(files), tuple(ignored))


def _files_of_dataset(folder: Path) -> Iterator[SourceFile]:
    """Yield the Arrow files of a folder that `datasets.save_to_disk` wrote, in their order."""
    splits = folder / _DATASET_SPLITS
    if splits.is_file():
        for split in _named_files(splits, _read_json(splits).get("splits")):
            yield from _files_of_dataset(folder / split)
        return

    state = _read_json(folder / _DATASET_STATE)
    if state.get("_indices_data_files"):
        raise SampleError(
            f"{folder} must be a dataset without an index of its rows, got one. "
            "Save it again after `dataset.flatten_indices()`."
        )
    entries = state.get("_data_files")
    names = [entry.get("filename") for entry in entries or [] if isinstance(entry, dict)]
    for name in _named_files(folder / _DATASET_STATE, names):
        path = folder / name
        _check_regular(path)
        yield SourceFile(str(path), str(path), ".arrow")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{path} is not JSON ({error}). Save the dataset again.") from error
    return content if isinstance(content, dict) else {}


def _named_files(listing: Path, names: Any) -> list[str]:
    """Return the names of a dataset's listing; raises `SampleError` if one leaves its folder."""
    is_list = isinstance(names, list) and names
    if not is_list or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise SampleError(
            f"{listing} must name files of its folder, got {names!r}. Save the dataset again."
        )
    return list(names)


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turn errors of reading into `SampleError`."""
    name = shown_path(str(path))
    try:
        yield
    except FileNotFoundError as error:
        raise SampleError(f"{name} doesn't exist. Check the path.") from error
    # Before OSError, because BadGzipFile is one.
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SampleError(
            f"{name} is not a complete gzip file ({error}). Compress it again."
        ) from error
    except OSError as error:
        # Arrow's messages may have several lines.
        reason = " ".join(str(error.strerror or error).split())
        raise SampleError(
            f"{name} can't be read ({reason}). Check the file and its permissions."
        ) from error


@contextmanager
def opened(file: SourceFile) -> Iterator[BinaryIO]:
    """Open a file as it is stored, compressed or not."""
    if file.is_remote:
        from tunetrail.data.formats.remote import opened_url

        with opened_url(file) as stream:
            yield stream
        return
    with readable(file.path), open(file.path, "rb") as stream:
        yield stream


def blocks(file: SourceFile) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file in blocks of up to 1 MiB.

    Raises:
        SampleError: The file can't be read, is damaged, expands too much, or was cut while it was
            read.
    """
    with opened(file) as raw:
        # What a server sends is complete, or the client raises an error.
        size = 0 if file.is_remote else os.fstat(raw.fileno()).st_size
        stream = _DECOMPRESSORS[file.compression](raw, file) if file.compression else raw

        decompressed = 0
        while block := stream.read(_BLOCK_BYTES):
            decompressed += len(block)
            if decompressed > max(_EXPANSION_FROM, LARGEST_EXPANSION * raw.tell()):
                raise SampleError(
                    f"{file.name} must expand to at most {LARGEST_EXPANSION} times its size, "
                    "got more. Decompress it and look at what is in it."
                )
            yield block

        # Another process may have begun to write the file again.
        if size and raw.tell() < size:
            raise SampleError(
                f"{file.name} was cut while it was read: {raw.tell()} of {size} bytes are left. "
                "Ingest it again when it is complete."
            )


def first_block(file: SourceFile) -> bytes:
    """Return the first decompressed bytes of a file, up to 1 MiB."""
    with readable(file.path):
        return next(blocks(file), b"")


def _gzip_stream(raw: BinaryIO, file: SourceFile) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=raw))


class _ZstandardStream:
    """Decompressed bytes of a Zstandard file."""

    def __init__(self, raw: BinaryIO, file: SourceFile) -> None:
        import pyarrow

        self._name = file.name
        self._stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd")

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._stream.read(size))
        # Arrow's errors of streams are OSErrors without a number.
        except OSError as error:
            reason = " ".join(str(error).split())
            raise SampleError(
                f"{self._name} is not a complete Zstandard file ({reason}). Compress it again."
            ) from error


def _zstandard_stream(raw: BinaryIO, file: SourceFile) -> BinaryIO:
    return cast(BinaryIO, _ZstandardStream(raw, file))


_DECOMPRESSORS: dict[str, Callable[[BinaryIO, SourceFile], BinaryIO]] = {
    ".gz": _gzip_stream,
    ".zst": _zstandard_stream,
}
