"""What goes wrong while a model is loaded: files that don't make a model."""

import contextlib
from collections.abc import Iterator

from tunetrail.errors import BrokenModelError, TunetrailError, one_line
from tunetrail.learning.out_of_memory import is_out_of_memory


@contextlib.contextmanager
def naming_broken_model(path: str) -> Iterator[None]:
    """Turn what libraries raise over a model's files into an error that names the folder.

    Raises:
        BrokenModelError: The files don't make a model.
    """
    try:
        yield
    except TunetrailError:
        raise
    # Broken files raise whatever their readers stumble over: errors of safetensors, pickle or JSON.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise BrokenModelError(
            f"the model in {path} can't be loaded: {one_line(error).rstrip('.')}. No code that "
            "comes with a model is run. Download it again, or choose another model."
        ) from error
