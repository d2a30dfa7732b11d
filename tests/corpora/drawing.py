"""Drawing texts by their form with a seeded generator. Knows nothing of what the texts mean."""

import itertools
import random
import string
from collections.abc import Callable

ALPHANUMERIC = string.ascii_letters + string.digits
Draw = Callable[[random.Random], str]
_SIGNS = {
    "#": string.digits,
    "&": "23456789",
    "^": string.ascii_uppercase,
    "~": "0123456789abcdef",
}


def some(rng: random.Random, alphabet: str, count: int) -> str:
    """Return `count` characters of an alphabet."""
    return "".join(rng.choices(alphabet, k=count))


def filled(rng: random.Random, template: str) -> str:
    """Return a template with a digit for each `#`, 2 to 9 for `&`, a capital for `^`, hex for `~`."""
    return "".join(rng.choice(_SIGNS.get(sign, sign)) for sign in template)


def one_of(*templates: str) -> Draw:
    """Return a drawer that fills one of the templates."""
    return lambda rng: filled(rng, rng.choice(templates))


def cut(text: str, *places: int) -> list[str]:
    """Return the pieces of a text that is cut at these places."""
    edges = (0, *places, len(text))
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def drawn(forms: tuple[Draw, ...], count: int, seed: str) -> list[str]:
    """Return `count` texts, each form in turn."""
    rng = random.Random(seed)
    return [forms[number % len(forms)](rng) for number in range(count)]
