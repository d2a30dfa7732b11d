"""Verbosity: how much a call says while it works, and libraries that stay quiet meanwhile.

Lines go through the logger `tunetrail`, as an application expects it. Only if neither that logger
nor the root logger has a handler, nobody else would show them, and they are printed here.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TextIO

from tunetrail.errors import ConfigError

VARIABLE = "TUNETRAIL_VERBOSE"
"""The environment variable, which the processes of a training inherit."""
WARNINGS, PROGRESS, LIBRARIES = 0, 1, 2
"""Warnings and errors only; lines and bars as well; libraries' lines as well."""

_LEVELS = {WARNINGS: logging.WARNING, PROGRESS: logging.INFO, LIBRARIES: logging.DEBUG}
_LINE, _TIME = "%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"

# The module that shows a bar whenever weights are loaded, and the variable that it reads.
_BARS, _BARS_VARIABLE = "transformers.utils.logging", "HF_HUB_DISABLE_PROGRESS_BARS"

# The level of what torch's own C++ logs, which it reads when it is imported.
_TORCH_VARIABLE = "TORCH_CPP_LOG_LEVEL"

# Environment variables of libraries.
_QUIET_SETTINGS = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # It would print the address of each run, of folds as well; the last line names the run's.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    _BARS_VARIABLE: "1",
    # Otherwise every forked data loader warns about the threads of the tokenizer.
    "TOKENIZERS_PARALLELISM": "false",
    # It prints the stack of each connection that is lost, and then raises the error anyway.
    _TORCH_VARIABLE: "ERROR",
}
# The variables that users know: they stay if they are set.
_KEPT_IF_SET = (_BARS_VARIABLE, "TOKENIZERS_PARALLELISM", _TORCH_VARIABLE)
# The level from which the lines of libraries are of use to somebody who trains.
_QUIET_LEVELS = {
    **dict.fromkeys(
        ("mlflow", "sentence_transformers", "alembic", "httpx", "huggingface_hub", "matplotlib"),
        logging.WARNING,
    ),
    # It asks the hub for a model card and a licence of every model, even of local folders.
    "mlflow.transformers": logging.ERROR,
    # It warns of each attempt to reach a server; the last one ends in an error anyway.
    "urllib3": logging.ERROR,
    # It prints the traceback of every database error, and then raises the error anyway.
    "mlflow.store.db.utils": logging.CRITICAL,
}


def verbosity() -> int:
    """Return how much is said now: 0, 1 or 2.

    Raises:
        ConfigError: $TUNETRAIL_VERBOSE is something else.
    """
    return _checked(os.environ.get(VARIABLE, PROGRESS), VARIABLE)


def quieten() -> None:
    """Keep the bars and notices of libraries out of the terminal, for as long as the process runs.

    Warnings stay. With a verbosity of 2, everything stays.
    """
    if verbosity() == LIBRARIES:
        return
    os.environ.update(_quiet_settings())
    for name, level in _QUIET_LEVELS.items():
        _set_level(logging.getLogger(name), level)
    if _BARS in sys.modules:
        sys.modules[_BARS].disable_progress_bar()


@contextmanager
def saying(verbose: int | None, *, shows_lines: bool = True) -> Iterator[None]:
    """Say as much as is asked for while the block runs, then leave everything as it was.

    The root logger isn't touched. The level of the logger `tunetrail` is set unless the application
    has set it.

    Args:
        verbose: 0, 1 or 2, as `verbosity` returns it; None for what holds already.
        shows_lines: Print the lines if no handler of the application takes them.

    Raises:
        ConfigError: It is none of them.
    """
    level = verbosity() if verbose is None else _checked(verbose, "verbose")
    with ExitStack() as stack:
        stack.enter_context(changed_environment({VARIABLE: str(level)}))
        if level < LIBRARIES:
            # First: whether the user has turned bars off stands in the environment.
            stack.enter_context(_without_bars())
            stack.enter_context(changed_environment(_quiet_settings()))
            for name, quiet_level in _QUIET_LEVELS.items():
                stack.enter_context(_level(logging.getLogger(name), quiet_level))
        # The command line's lines are shown by Hydra, or by nobody.
        sets_level = shows_lines or verbose is not None
        if sets_level and logging.getLogger("tunetrail").level == logging.NOTSET:
            stack.enter_context(_level(logging.getLogger("tunetrail"), _LEVELS[level]))
        if shows_lines:
            stack.enter_context(_printed_lines())
        yield


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the bars of the Hugging Face libraries while the block runs.

    They read the environment when they are imported, which may have been before the block.
    """
    module = sys.modules.get(_BARS)
    is_on = module.is_progress_bar_enabled() if module else _BARS_VARIABLE not in os.environ
    if module is not None:
        module.disable_progress_bar()
    try:
        yield
    finally:
        module = sys.modules.get(_BARS)
        if module is not None and is_on:
            # Imported in the block, the hub's library says that its own bars stay off.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module.enable_progress_bar()


@contextmanager
def changed_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_notebook() -> bool:
    """Tell whether this is a Jupyter kernel, which shows all streams in the cell's output."""
    return type(_behind_bar(sys.stderr)).__module__.startswith("ipykernel.")


def _behind_bar(stream: TextIO) -> TextIO:
    """Return the stream itself: while a bar of rich is shown, a proxy prints above the bar."""
    proxied: TextIO = getattr(stream, "rich_proxied_file", stream)
    return proxied


class _PrintedLines(logging.Handler):
    """Prints lines on the stream that is stderr at that moment: a bar stays below them."""

    def emit(self, record: logging.LogRecord) -> None:
        # The application may configure its logging later than this handler was added.
        if logging.getLogger("tunetrail").propagate and logging.root.handlers:
            return
        try:
            # A notebook shows stderr as if it were an error, and the bar is on stderr.
            stream = _behind_bar(sys.stdout) if is_notebook() else sys.stderr
            print(self.format(record), file=stream, flush=True)
        except Exception:
            self.handleError(record)


def _checked(value: object, name: str) -> int:
    for level in _LEVELS:
        # A variable holds a text; a bool is no level.
        if str(value) == str(level):
            return level
    raise ConfigError(
        f"{name} must be 0 (warnings), 1 (progress) or 2 (libraries' lines as well), got {value!r}."
    )


def _quiet_settings() -> dict[str, str]:
    settings = dict(_QUIET_SETTINGS)
    for name in _KEPT_IF_SET:
        settings[name] = os.environ.get(name, settings[name])
    return settings


@contextmanager
def _level(logger: logging.Logger, level: int) -> Iterator[None]:
    before = logger.level
    _set_level(logger, level)
    try:
        yield
    finally:
        _set_level(logger, before)


def _set_level(logger: logging.Logger, level: int) -> None:
    """Set a logger's level, unless it is that already: each time, all loggers forget what is on."""
    if logger.level != level:
        logger.setLevel(level)


@contextmanager
def _printed_lines() -> Iterator[None]:
    """Print tunetrail's log lines while the block runs, unless the application handles them."""
    logger = logging.getLogger("tunetrail")
    if logger.hasHandlers():
        yield
        return

    handler = _PrintedLines()
    handler.setFormatter(logging.Formatter(_LINE, _TIME))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
