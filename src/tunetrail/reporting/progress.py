"""Consoles for progress: on stderr, or in the cell of a notebook; silent if nobody wants bars."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import rich
from rich.console import Console

from tunetrail.verbosity import WARNINGS, is_notebook, verbosity


def progress_console() -> Console:
    """Return a console for bars, which prints nothing if only warnings are wanted."""
    return Console(**console_settings())


def console_settings() -> dict[str, Any]:
    """Return the settings of such a console, for a library that makes its own."""
    settings: dict[str, Any] = {"stderr": True, "quiet": verbosity() == WARNINGS}
    # rich draws moving bars in a notebook by ipywidgets, and would warn for each bar without it.
    if is_notebook() and importlib.util.find_spec("ipywidgets") is None:
        settings["force_jupyter"] = False
    return settings


@contextmanager
def rich_console_kept() -> Iterator[None]:
    """Give the application back its global rich console, which Lightning's bar changes."""
    console = rich.get_console()
    before = dict(console.__dict__)
    try:
        yield
    finally:
        console.__dict__ = before
