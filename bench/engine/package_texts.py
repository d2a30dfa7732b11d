"""Rows with long bodies: names of the packages that are installed here, and passages of their descriptions."""

import importlib.metadata
import random
import re
from collections.abc import Iterator

_FEWEST_WORDS, _MOST_WORDS = 20, 300
_PASSAGES = 8
"""The most passages of a package: the readme of one would otherwise be most of the rows."""
_TITLE_WORDS = 4
_WORD = re.compile(r"\(?[A-Za-z][\w'-]*[.,;:!?)]*")
"""What is prose, in contrast to markup, addresses and code."""


def named_passages() -> list[dict[str, str]]:
    """Return pairs of a package's name, with the first words of a passage, and the passage's other words.

    A passage has 20 to 300 words. Which packages there are, the machine decides.
    """
    rows = []
    names: set[str] = set()
    for name, description in sorted(_descriptions()):
        # A package may be installed twice, and some say that there is no description.
        if name in names:
            continue
        names.add(name)
        rows += _passages(name, description)
    return rows


def _descriptions() -> Iterator[tuple[str, str]]:
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        description = metadata.get("Description") or metadata.get_payload()
        if isinstance(description, str):
            yield metadata["Name"], description


def _passages(name: str, description: str) -> list[dict[str, str]]:
    words, rng = list(filter(_WORD.fullmatch, description.split())), random.Random(name)
    rows = []
    while len(rows) < _PASSAGES:
        length = rng.randint(_FEWEST_WORDS, _MOST_WORDS)
        title, body = words[:_TITLE_WORDS], words[_TITLE_WORDS : _TITLE_WORDS + length]
        if len(body) < length:
            break
        rows.append({"anchor": f"{name}: {' '.join(title)}", "positive": " ".join(body)})
        words = words[_TITLE_WORDS + length :]
    return rows
