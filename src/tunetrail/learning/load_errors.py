"""What goes wrong while a model is loaded: a full memory, or files that don't make a model."""

import contextlib
from collections.abc import Iterator

import torch

from tunetrail.errors import BrokenModelError, TunetrailError, one_line

# What a file that can't be mapped, oneDNN and C++ report; Lightning recognises the rest.
_FULL = ("Cannot allocate memory", "could not create a primitive", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the memory of the device or of the machine is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, OSError | RuntimeError):
        return False

    # Only now: whoever just applies a model does without Lightning, whose import takes seconds.
    from pytorch_lightning.utilities.memory import is_oom_error

    message = str(error)
    return is_oom_error(RuntimeError(message)) or any(phrase in message for phrase in _FULL)


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
