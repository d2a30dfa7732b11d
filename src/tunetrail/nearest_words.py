"""Find the known word that a person meant by an unknown one: for keys, choices, commands, columns.

Case never matters. A word that the field uses for the same thing comes first, then a single typing
error, then whatever looks similar.
"""

import difflib
from collections.abc import Iterable, Mapping

# Letters of a word from which a single typing error still leaves it recognisable.
_SHORTEST_TYPO = 3


def nearest_words(
    word: str, known: Iterable[str], *, synonyms: Mapping[str, str] | None = None, most: int = 1
) -> list[str]:
    """Return the known words that are nearest to a word, the nearest first.

    Args:
        word: The unknown word.
        known: The words that exist.
        synonyms: What other words, in small letters, stand for; a meaning that isn't known is
            ignored.
        most: Number of words at most.
    """
    folded_word = word.casefold()
    by_folded = {name.casefold(): name for name in known}

    meaning = (synonyms or {}).get(folded_word, folded_word).casefold()
    if meaning in by_folded:
        return [by_folded[meaning]]

    similar_words = difflib.get_close_matches(
        folded_word, by_folded, n=max(most, len(by_folded)) or 1
    )
    # The sort is stable: words with one typing error keep their order, and come first.
    similar_words.sort(key=lambda name: not is_single_typo(folded_word, name))
    return [by_folded[name] for name in similar_words[:most]]


def is_single_typo(word: str, meant: str) -> bool:
    """Tell whether one letter is missing, too many, another one, or in its neighbour's place."""
    if abs(len(word) - len(meant)) > 1 or max(len(word), len(meant)) < _SHORTEST_TYPO:
        return False

    pairs = enumerate(zip(word, meant, strict=False))
    start = next((index for index, (typed, right) in pairs if typed != right), None)
    if start is None:
        return len(word) != len(meant)

    typed, right = word[start:], meant[start:]
    return (
        typed[1:] == right[1:]
        or typed == right[1:]
        or typed[1:] == right
        or (typed[1::-1] == right[:2] and typed[2:] == right[2:])
    )
