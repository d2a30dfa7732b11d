"""The progress bar of what is done before a training."""

from rich.console import Console
from rich.progress import Progress


def progress_bar() -> Progress:
    """Return a bar on the error stream that is gone when it is done."""
    return Progress(console=Console(stderr=True), transient=True)
