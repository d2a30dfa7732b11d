"""Errors that people read: one line that names the field, the value and the way out.

Knows nothing of the rest of tunetrail. The command line turns `exit_code` into the process's exit status:
2 for a mistake that the user can mend, 1 for a failure of the world (a full disk, an unreachable database).
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class TunetrailError(Exception):
    """A failure with a readable message. Base class of every error that tunetrail raises on purpose."""

    exit_code = 1


class UserError(TunetrailError):
    """A mistake in what the user asked for; the message says how to mend it."""

    exit_code = 2


class ConfigError(UserError):
    """A config value that is unknown, of the wrong type, out of range or impossible together with another."""


class SampleError(UserError):
    """Rows or files that can't be learnt from: wrong columns, a broken file, a malformed row."""


class SessionError(UserError):
    """A session that doesn't exist, is empty, or has no samples for the model type."""


class ModelError(TunetrailError):
    """A model that can't be found, reached, converted or loaded."""


class DatabaseError(TunetrailError):
    """The samples' database can't be reached, read or written."""


class TrackingError(TunetrailError):
    """MLflow's store or registry can't be reached, read or written."""


class TrainingError(TunetrailError):
    """Training or evaluation failed, for example by a loss that is not finite."""


class DeploymentError(TunetrailError):
    """A model version could not be registered, verified, promoted or exported."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the known word nearest to `word`, or an empty string."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]!r}?" if matches else ""


@contextmanager
def naming_section(section: str) -> Iterator[None]:
    """Let an error within the block say `SECTION.training.x`, where it says `training.x`, as one would write it."""
    try:
        yield
    except TunetrailError as error:
        named = f"{section}.training."
        error.args = tuple(
            re.sub(r"(?<![\w.])training\.(?=\w)", named, str(each)) for each in error.args
        )
        raise


def state_after(error: BaseException) -> tuple[str, str]:
    """Return the state in which an exception leaves a run, and the reason to keep with it.

    An error means `failed`; a signal or an exit (no `Exception`) means `interrupted`.
    """
    state = "failed" if isinstance(error, Exception) else "interrupted"
    return state, f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
