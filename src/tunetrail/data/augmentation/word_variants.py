"""Word variants: a text with some of its words dropped, swapped, mistyped or replaced. Knows nothing of rows.

Each function takes a text, the share of the words to change and a seeded generator, and returns the varied text, or
None where the text has no word that it could change; at least one is changed. White space stays as it is. Dropping and
swapping follow Wei and Zou, "EDA" (2019).
"""

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tunetrail.data.augmentation.lexicon import Lexicon

_GAP = re.compile(r"(\s+)")
_PLAIN_WORD = re.compile(r"(?P<before>[\"'(]*)(?P<word>[^\W\d_]+)(?P<after>[.,;:!?\"')]*)")
_SHORTEST_MISTYPED = 4
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_KEYS = {
    key: (row, column + 0.35 * row)
    for row, keys in enumerate(_KEYBOARD)
    for column, key in enumerate(keys)
}
_NEIGHBOURS = {
    key: "".join(
        other
        for other, (y, x) in _KEYS.items()
        if other != key and abs(y - row) <= 1 and abs(x - column) <= 1
    )
    for key, (row, column) in _KEYS.items()
}


def with_words_dropped(text: str, rate: float, generator: np.random.Generator) -> str | None:
    """Drop words, never all; the white space after each goes too."""
    pieces = _GAP.split(text)
    words = [position for position in range(0, len(pieces), 2) if pieces[position]]
    if len(words) < 2:
        return None
    dropped = _drawn(len(words), rate, generator)
    if dropped.all():
        dropped[generator.integers(len(words))] = False
    for position, is_dropped in zip(words, dropped, strict=True):
        if is_dropped:
            pieces[position : position + 2] = [""] * len(pieces[position : position + 2])
    return "".join(pieces).rstrip()


def with_words_swapped(text: str, rate: float, generator: np.random.Generator) -> str | None:
    """Swap words with the next one on the same line; no word moves twice."""
    pieces = _GAP.split(text)
    places = [
        position
        for position in range(0, len(pieces) - 2, 2)
        if pieces[position]
        and pieces[position + 2] not in ("", pieces[position])
        and "\n" not in pieces[position + 1]
    ]
    if not places:
        return None
    chosen = _drawn(len(places), rate, generator)
    moved = -2
    for position, is_chosen in zip(places, chosen, strict=True):
        if is_chosen and position > moved:
            moved = position + 2
            pieces[position], pieces[moved] = pieces[moved], pieces[position]
    return "".join(pieces)


def with_typos(text: str, rate: float, generator: np.random.Generator) -> str | None:
    """Mistype words of four letters or more; what holds other signs, such as an identifier, is left alone."""

    def replacement(word: str) -> Callable[[], str] | None:
        return (lambda: _mistyped(word, generator)) if len(word) >= _SHORTEST_MISTYPED else None

    return _with_words_replaced(text, rate, generator, replacement)


def with_synonyms(
    text: str, rate: float, generator: np.random.Generator, lexicon: Lexicon
) -> str | None:
    """Put synonyms for words that have any, in the word's own capitalisation."""

    def replacement(word: str) -> Callable[[], str] | None:
        found = lexicon.of(word)
        return (lambda: found[generator.integers(len(found))]) if found else None

    return _with_words_replaced(text, rate, generator, replacement)


def _with_words_replaced(
    text: str,
    rate: float,
    generator: np.random.Generator,
    replacement: Callable[[str], Callable[[], str] | None],
) -> str | None:
    """Replace the drawn words among those for which `replacement` returns a function."""
    pieces = _GAP.split(text)
    found = []
    for position in range(0, len(pieces), 2):
        match = _PLAIN_WORD.fullmatch(pieces[position])
        replaced = replacement(match["word"]) if match else None
        if match and replaced:
            found.append((position, match, replaced))
    if not found:
        return None
    for (position, match, replaced), is_drawn in zip(
        found, _drawn(len(found), rate, generator), strict=True
    ):
        if is_drawn:
            pieces[position] = match["before"] + replaced() + match["after"]
    return "".join(pieces)


def _drawn(count: int, rate: float, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draw each of `count` words with probability `rate`, at least one."""
    drawn: npt.NDArray[np.bool_] = generator.random(count) < rate
    if not drawn.any():
        drawn[generator.integers(count)] = True
    return drawn


def _mistyped(word: str, generator: np.random.Generator) -> str:
    """Return the word with one letter after its first dropped, doubled, exchanged or hit beside its key."""
    place = int(generator.integers(1, len(word)))
    letter = word[place]
    near = _NEIGHBOURS.get(letter.lower(), "")
    variants = [word[:place] + word[place + 1 :], word[:place] + letter + word[place:]]
    if place > 1 and word[place - 1] != letter:
        variants.append(word[: place - 1] + letter + word[place - 1] + word[place + 1 :])
    if near:
        hit = near[generator.integers(len(near))]
        variants.append(
            word[:place] + (hit.upper() if letter.isupper() else hit) + word[place + 1 :]
        )
    return variants[generator.integers(len(variants))]
