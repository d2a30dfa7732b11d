"""Find the words of a text that are written for people, and how much of the text they make up.

Source code, identifiers, JSON, URLs and numbers hold few such words between their signs; sentences
hold little else.
"""

import re
from dataclasses import dataclass

_READ_CHARACTERS = 300
# Letters and the marks that belong to them (`\w` has no vowel signs of the Indic scripts).
_LETTER = (
    "A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u167f\u1681-\u1fff\u2c00-\u2dff"
    "\u3005-\u3007\u3040-\ud7ff\uf900-\ufdff\ufe70-\ufefc\U00010000-\U0001efff\U00020000-\U0003ffff"
)

# Blanks, dashes, and the punctuation between Chinese and Japanese words.
_GAP = "\\s\u2013\u2014\u2026\u3001\u3002\u300a-\u300f\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"

_OPENING, _CLOSING = (
    "\"'(\\[*\u00ab\u201e\u201c\u2018\u00bf\u00a1",
    "\"')\\].,;:!?*\u00bb\u201c\u201d\u2019",
)
_WORD = re.compile(
    rf"(?<![^{_GAP}])[{_OPENING}]*+([{_LETTER}]++(?:['\u2019\-][{_LETTER}]++)*+)"
    rf"[{_CLOSING}]*+(?![^{_GAP}])"
)
# Thai, Lao, Burmese, Khmer, Japanese and Chinese put no blanks between words.
_UNSPACED_LETTER = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prose:
    """The prose in the beginning of a text.

    Attributes:
        text: The natural words in their order, in lower case, with blanks between them; in scripts
            without blanks all of the beginning, because punctuation separates it.
        words: Number of words; two letters of a script without blanks count as one.
        share: Share of the characters (without blanks) that belong to the words, between 0 and 1.
    """

    text: str
    words: float
    share: float


def read_prose(text: str) -> Prose:
    """Find the natural words in the first 300 characters of `text`.

    A natural word stands between blanks or punctuation and has letters only, with capitals at its
    beginning or throughout. Single ASCII letters are variables more often than words; acronyms
    count only in texts that are all capitals.
    """
    beginning = text.lstrip()[:_READ_CHARACTERS]
    words = list(filter(_is_natural, _WORD.findall(beginning)))
    if 0 < 2 * sum(map(str.isupper, words)) <= len(words):
        words = [word for word in words if not word.isupper()]

    visible = beginning.split()
    letters = "".join(words)
    share = len(letters) / max(1, sum(map(len, visible)))

    # In a script without blanks, a "word" of the pattern is a whole clause.
    unspaced = 0 if letters.isascii() else len(_UNSPACED_LETTER.findall(letters)) / 2
    if unspaced > len(words):
        return Prose(text=" ".join(visible).lower(), words=unspaced, share=share)
    return Prose(text=" ".join(words).lower(), words=float(len(words)), share=share)


def _is_natural(word: str) -> bool:
    # Most words are in lower case throughout, which is the quickest to tell.
    has_usual_case = word.islower() or word[1:] == word[1:].lower() or word.isupper()
    return has_usual_case and (len(word) > 1 or not word.isascii())
