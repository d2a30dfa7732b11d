"""Vary the words of a text: drop, swap, mistype or replace some of them.

Each function takes a text, the share of the words to change and a seeded generator, and returns the
varied text, or None if the text has no word that it could change; at least one word is changed.
White space stays as it is. Dropping and swapping follow Wei and Zou, "EDA" (2019).
"""

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tunetrail.data.augmentation.lexicon import Lexicon

_GAP = re.compile(r"(\s+)")
# Letters only, with the punctuation around them: identifiers and numbers mustn't be mistyped.
_PLAIN_WORD = re.compile(r"(?P<before>[\"'(]*)(?P<word>[^\W\d_]+)(?P<after>[.,;:!?\"')]*)")
_SHORTEST_MISTYPED = 4
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours_on_keyboard() -> dict[str, str]:
    """Return the keys next to each key of a QWERTY keyboard."""
    positions = {}
    for row, keys in enumerate(_KEYBOARD):
        for column, key in enumerate(keys):
            # Each row of a keyboard begins about a third of a key further right.
            positions[key] = np.array([row, column + 0.35 * row])

    neighbours = {}
    for key, position in positions.items():
        neighbours[key] = ""
        for near, near_position in positions.items():
            if near != key and (np.abs(near_position - position) <= 1).all():
                neighbours[key] += near
    return neighbours


_NEIGHBOURS = _neighbours_on_keyboard()


def with_words_dropped(text: str, rate: float, generator: np.random.Generator) -> str | None:
    """Drop words, never all, together with the white space after them."""
    pieces = _GAP.split(text)
    # Words are at the even positions, white space at the odd ones.
    word_positions = [position for position in range(0, len(pieces), 2) if pieces[position]]
    if len(word_positions) < 2:
        return None

    is_dropped = _draw_words(len(word_positions), rate, generator)
    # An empty text would teach nothing.
    if is_dropped.all():
        is_dropped[generator.integers(len(word_positions))] = False

    for position in np.array(word_positions)[is_dropped]:
        pieces[position] = ""
        if position + 1 < len(pieces):
            pieces[position + 1] = ""
    return "".join(pieces).rstrip()


def with_words_swapped(text: str, rate: float, generator: np.random.Generator) -> str | None:
    """Swap words with the next one on the same line; no word moves twice."""
    pieces = _GAP.split(text)
    swappable = []
    for position in range(0, len(pieces) - 2, 2):
        word, gap, next_word = pieces[position : position + 3]
        if word and next_word not in ("", word) and "\n" not in gap:
            swappable.append(position)
    if not swappable:
        return None

    is_drawn = _draw_words(len(swappable), rate, generator)
    last_moved = -2
    for position in np.array(swappable)[is_drawn]:
        if position > last_moved:
            last_moved = position + 2
            pieces[position], pieces[last_moved] = pieces[last_moved], pieces[position]
    return "".join(pieces)


def with_typos(text: str, rate: float, generator: np.random.Generator) -> str | None:
    """Mistype words of four letters or more; words with other signs, such as identifiers, stay."""

    def replacement(word: str) -> Callable[[], str] | None:
        return (lambda: _mistyped(word, generator)) if len(word) >= _SHORTEST_MISTYPED else None

    return _with_words_replaced(text, rate, generator, replacement)


def with_synonyms(
    text: str, rate: float, generator: np.random.Generator, lexicon: Lexicon
) -> str | None:
    """Replace words by synonyms, in the word's own capitalisation."""

    def replacement(word: str) -> Callable[[], str] | None:
        synonyms = lexicon.of(word)
        return (lambda: synonyms[generator.integers(len(synonyms))]) if synonyms else None

    return _with_words_replaced(text, rate, generator, replacement)


def _with_words_replaced(
    text: str,
    rate: float,
    generator: np.random.Generator,
    replacement: Callable[[str], Callable[[], str] | None],
) -> str | None:
    """Replace some of the words for which `replacement` returns a function.

    The functions are called only for the words drawn, as each call draws from the generator.
    """
    pieces = _GAP.split(text)
    replaceable = []
    for position in range(0, len(pieces), 2):
        match = _PLAIN_WORD.fullmatch(pieces[position])
        replace = replacement(match["word"]) if match else None
        if match and replace:
            replaceable.append((position, match, replace))
    if not replaceable:
        return None

    is_drawn = _draw_words(len(replaceable), rate, generator)
    for index in np.flatnonzero(is_drawn):
        position, match, replace = replaceable[index]
        pieces[position] = match["before"] + replace() + match["after"]
    return "".join(pieces)


def _draw_words(count: int, rate: float, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Draw each of `count` words with probability `rate`, and at least one."""
    is_drawn: npt.NDArray[np.bool_] = generator.random(count) < rate
    if not is_drawn.any():
        is_drawn[generator.integers(count)] = True
    return is_drawn


def _mistyped(word: str, generator: np.random.Generator) -> str:
    """Return the word with a letter after its first dropped, doubled, exchanged or mistyped."""
    position = int(generator.integers(1, len(word)))
    before, letter, after = word[:position], word[position], word[position + 1 :]

    # The first letter stays, as people seldom mistype it.
    variants = [before + after, before + letter + letter + after]
    if position > 1 and before[-1] != letter:
        variants.append(before[:-1] + letter + before[-1] + after)

    neighbours = _NEIGHBOURS.get(letter.lower(), "")
    if neighbours:
        typed = neighbours[generator.integers(len(neighbours))]
        variants.append(before + (typed.upper() if letter.isupper() else typed) + after)
    return variants[generator.integers(len(variants))]
