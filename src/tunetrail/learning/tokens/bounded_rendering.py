"""Bounded rendering: a chat template gets a few seconds, a share of the memory, and so much text.

A template is a program that comes with a model. Its sandbox keeps it from files and from Python's
internals, but not from a loop without an end, nor from a text that fills the memory.
"""

import contextlib
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tunetrail.errors import BrokenModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10.0
"""Computing time of one rendering; a usual template takes less than a millisecond."""
MEMORY_BYTES = 2**30
"""What one rendering may add to the memory of the process."""
# The longest text: this multiple of the conversation, plus the template's own words.
_CHARACTERS_PER_CHARACTER, _FURTHER_CHARACTERS = 20, 1_000_000
_PAGES = Path("/proc/self/statm")


def render_template(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]], **keywords: Any
) -> str:
    """Return what a tokenizer's chat template makes of messages, within bounds.

    Args:
        tokenizer: The tokenizer.
        messages: The conversation, as chat templates take it.
        **keywords: As for `apply_chat_template`.

    Raises:
        BrokenModelError: The template takes too long, too much memory, or writes too much.
    """
    try:
        with _bounded():
            rendered = tokenizer.apply_chat_template(
                list(map(dict, messages)), tokenize=False, **keywords
            )
    except TimeoutError as error:
        raise _broken(tokenizer, f"render a conversation within {SECONDS:g} s") from error
    except MemoryError as error:
        gibibytes = MEMORY_BYTES / 2**30
        raise _broken(tokenizer, f"render a conversation within {gibibytes:g} GiB") from error

    text = str(rendered)
    if len(text) > _FURTHER_CHARACTERS:
        written = len(str([messages, keywords]))
        longest = _FURTHER_CHARACTERS + _CHARACTERS_PER_CHARACTER * written
        if len(text) > longest:
            raise _broken(tokenizer, f"write at most {longest:,} characters for a conversation")
    return text


def _broken(tokenizer: "PreTrainedTokenizerBase", rule: str) -> BrokenModelError:
    return BrokenModelError(
        f"the chat template of {tokenizer.name_or_path} must {rule}, got more. Correct the "
        "template, or choose another model."
    )


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Bound what is done in the main thread; raises `TimeoutError` or `MemoryError`.

    Signals and limits are the whole process's: other threads can't have their own. What these
    render belongs to models that have been trained, with templates that kept within the bounds.
    """
    if threading.current_thread() is threading.main_thread():
        with _bounded_seconds(), _bounded_memory():
            yield
    else:
        yield


@contextlib.contextmanager
def _bounded_seconds() -> Iterator[None]:
    """Raise `TimeoutError` after some computing time of the process."""

    def interrupt(signal_number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    # Not SIGALRM: it belongs to whoever limits the whole process.
    previous = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, previous)


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let allocations raise `MemoryError` once the process has grown too much.

    A single operation can ask for gigabytes, and no signal interrupts it. Only Linux keeps the
    limit.
    """
    if not sys.platform.startswith("linux"):
        yield
        return

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(_PAGES.read_text().split()[0]) * resource.getpagesize()
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([held + MEMORY_BYTES, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
