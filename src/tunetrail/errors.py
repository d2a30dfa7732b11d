"""Errors that people read: one line that names the field, the value and what to do.

`exit_code` is the exit status of the command line: 2 for a mistake that the user can fix, 1 for a
failure of the machine or a server, such as a full disk or an unreachable database.
"""

import errno
import os
import re
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tunetrail.nearest_words import nearest_words

# The disk has no room, or the user has used up a quota of it.
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_FULL_DISK_WORDS = tuple(map(os.strerror, _FULL_DISK))
FREE_SPACE = "Free some space and run the same command again."
"""What to do about a full disk."""

# MLflow's heading of each file that it could not download.
_FAILED_FILE = re.compile(r"\n#+ File .+ #+\n")
# Free bytes of a disk below which it counts as full.
_LEAST_ROOM = 64 * 2**20


class TunetrailError(Exception):
    """A failure with a readable message: the base of all errors that tunetrail raises."""

    exit_code = 1


class UserError(TunetrailError):
    """A mistake in what the user asked for; the message says how to fix it."""

    exit_code = 2


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, out of range or in conflict with another."""


class SampleError(UserError):
    """Rows or files that can't be used: wrong columns, a broken file, a malformed row."""


class SessionError(UserError):
    """A session that doesn't exist, is empty, or has no samples for the model type."""


class ModelError(TunetrailError):
    """A model that can't be found, reached, converted or loaded."""


class BrokenModelError(ModelError, UserError):
    """A model's folder that is broken, or asks for what no model may do: another one is needed."""


class DatabaseError(TunetrailError):
    """The database can't be reached, read or written."""


class TrackingError(TunetrailError):
    """MLflow's store or registry can't be reached, read or written."""


class TrainingError(TunetrailError):
    """Training or evaluation failed, for example because the loss became infinite."""


class SweepError(TunetrailError):
    """Jobs of a sweep have failed; the others were trained."""


class DeploymentError(TunetrailError):
    """A model version could not be registered, verified, promoted or exported."""


def did_you_mean(word: str, known: Iterable[str], synonyms: Mapping[str, str] | None = None) -> str:
    """Return ` Did you mean 'x'?` for the known word nearest to `word`, or an empty string.

    Args:
        word: The unknown word.
        known: The words that exist.
        synonyms: What other words, in small letters, stand for.
    """
    nearest = nearest_words(word, known, synonyms=synonyms)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def first_line(error: object) -> str:
    """Return the first line of a foreign error's message; the error's type if it has none."""
    # Later lines are statements, stacks and advice for other people than ours.
    lines = str(error).strip().splitlines()
    return lines[0].rstrip() if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """Return the type and the message of a foreign error in one line."""
    # Messages of import errors, for example, may have several lines.
    return " ".join(f"{type(error).__name__}: {error}".split())


def first_reason(error: BaseException) -> str:
    """Return the message of a foreign error; of one about many files, what failed the first."""
    reasons = [str(error)]
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list):
        # A copied folder says source, target and reason for each of its files.
        reasons = [str(reason) for _, _, reason in error.args[0]]
    elif _FAILED_FILE.search(str(error)):
        reasons = _FAILED_FILE.split(str(error))[1:]

    first, *others = reasons
    return f"{first.strip()} (and {len(others)} more)" if others else first.strip()


def not_writable(
    key: str, folder: Path | str, error: OSError, advice: str = "Name another folder."
) -> ConfigError:
    """Return the error for a configured folder that can't be made or written."""
    return ConfigError(
        f"{key} must be a folder that can be written, got {str(folder)!r}: "
        f"{error.strerror}. {advice}"
    )


def is_disk_full(error: BaseException, folder: Path | None = None) -> bool:
    """Tell whether an error says that a disk, or the user's quota of it, is full.

    Args:
        error: The error.
        folder: The folder that was written to. Its disk decides if the error has no number, such as
            NumPy's, which only says how many elements could not be written.
    """
    if not isinstance(error, OSError):
        # What is written in another language, and MLflow about many files, keep only the words.
        return any(words in str(error) for words in _FULL_DISK_WORDS)
    if error.errno is None:
        return folder is not None and not has_room(folder)
    return error.errno in _FULL_DISK


def has_room(folder: Path) -> bool:
    """Tell whether the disk of a folder that exists has room for more than a few small files."""
    usage = shutil.disk_usage(folder)
    # A small disk, such as one in memory, may never have had so much; a virtual one has no size.
    return usage.total == 0 or usage.free > min(_LEAST_ROOM, usage.total // 20)


@contextmanager
def naming_section(section: str) -> Iterator[None]:
    """Let errors raised in the block say `SECTION.training.x` where they say `training.x`.

    The sections `embedding` and `llm` share the class of their settings, which doesn't know which
    of them it belongs to; the user has to read the key as it is typed.
    """
    try:
        yield
    except TunetrailError as error:
        messages = map(str, error.args)
        whole_key = f"{section}.training."
        error.args = tuple(
            re.sub(r"(?<![\w.])training\.(?=\w)", whole_key, message) for message in messages
        )
        raise


def state_after(error: BaseException) -> tuple[str, str]:
    """Return the state in which an exception leaves a run, and the reason to store with it.

    An error means `failed`; a signal or an exit, which is no `Exception`, means `interrupted`.
    """
    state = "failed" if isinstance(error, Exception) else "interrupted"
    name = type(error).__name__
    signal_name = _signal_of(error)
    if signal_name is not None:
        return state, f"stopped by {signal_name}"
    return state, f"{name}: {error}" if str(error) else name


def _signal_of(error: BaseException) -> str | None:
    """Return the signal that an exception stands for, None if it stands for none."""
    # Python raises the first for Ctrl-C, Lightning the second one for SIGTERM.
    if isinstance(error, KeyboardInterrupt):
        return "Ctrl-C"
    if type(error).__name__ == "SIGTERMException":
        return "SIGTERM"

    # The command line ends with 128 + n after signal n.
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code > 128:
        with suppress(ValueError):
            name = signal.Signals(error.code - 128).name
            return "Ctrl-C" if name == "SIGINT" else name
    return None
