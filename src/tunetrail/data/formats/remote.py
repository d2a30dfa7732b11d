"""Open files of the web and of object stores through fsspec, which is an extra."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from tunetrail.data.formats.files import SourceFile
from tunetrail.errors import SampleError

_SCHEMES_OF_EXTRA = ("http", "https", "s3", "s3a")
_READ_FROM_THE_END = (".parquet", ".arrow", ".feather")


@contextmanager
def opened_url(file: SourceFile) -> Iterator[BinaryIO]:
    """Open a URL for reading.

    Raises:
        SampleError: The extra isn't installed, the scheme is unknown, or the file can't be read.
    """
    try:
        import fsspec

        is_web = file.path.startswith(("http://", "https://"))
        # As a stream, because many web servers don't send parts of a file.
        options = {"block_size": 0} if is_web else {}
        with fsspec.open(file.path, "rb", **options) as stream:
            if is_web and file.suffix in _READ_FROM_THE_END:
                with tempfile.TemporaryFile() as copy:
                    shutil.copyfileobj(stream, copy)
                    copy.seek(0)
                    yield copy
            else:
                yield cast(BinaryIO, stream)
    except SampleError:
        raise
    except ImportError as error:
        scheme = file.path.partition("://")[0]
        is_in_extra = scheme in _SCHEMES_OF_EXTRA or error.name == "fsspec"
        # For the others, fsspec's message names the package.
        way_out = "Install it: pip install 'tunetrail[remote]'" if is_in_extra else str(error)
        raise SampleError(
            f"{file.name} must be a local file, as the package for {scheme}:// is missing. "
            f"{way_out}."
        ) from error
    except FileNotFoundError as error:
        # Unlike a path, it can't name a folder or a glob: many web servers list no files.
        raise SampleError(
            f"{file.name} doesn't exist. Check the URL: it must name a single file."
        ) from error
    # The clients of stores have errors of their own, whose messages may hold a signed URL.
    except Exception as error:
        raise SampleError(
            f"{file.name} can't be read ({type(error).__name__}). Check the URL, its permissions "
            "and the network."
        ) from error
