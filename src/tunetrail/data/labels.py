"""Labels and scores of a session: their balance, labels that look misspelt, and the scale of scores. Knows no texts."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

_RARE_ROWS = 2
_RARE_SHARE = 0.02
"""A label is rare with at most so many rows, and at most this share of the one that it looks like."""
_ALIKE = 0.84
"""difflib's ratio from which two names may be one: one or two letters of a word of eight to twelve."""
_USUAL_SCALES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 5.0), (1.0, 5.0), (0.0, 10.0), (0.0, 100.0), (-100.0, 100.0))
_WITHIN = 0.95


def imbalance(counts: Mapping[str, int]) -> float:
    """Return how many rows the commonest label has for one of the rarest; 1 without labels."""
    return max(counts.values()) / max(min(counts.values()), 1) if counts else 1.0


def unknown_labels(counts: Mapping[str, int], known: Sequence[str] | None) -> dict[str, str]:
    """Return what is wrong with a label, for each that is.

    With `known` labels, every other one is unknown. Without, a rare label is taken for a misspelling of a common one if
    both are equal but for case, white space and separators, or differ in a letter or two and in no digit.

    Args:
        counts: Rows by label.
        known: All labels that there are, or None.
    """
    if known is not None:
        wanted = set(known)
        return {
            label: f"label {label!r} is not a known one{_hint(label, known)}" for label in counts if label not in wanted
        }
    common = sorted((label for label in counts if counts[label] > _RARE_ROWS), key=lambda label: -counts[label])
    found = {}
    for label, rows in counts.items():
        if rows > _RARE_ROWS:
            continue
        alike = next(
            (each for each in common if rows <= max(_RARE_SHARE * counts[each], 1.0) and _may_be(label, each)), None
        )
        if alike is not None:
            found[label] = f"label {label!r} looks like {alike!r}"
    return found


def usual_scale(scores: npt.NDArray[np.float64], minimum: float | None, maximum: float | None) -> tuple[float, float]:
    """Return the bounds of the scores: the configured ones, else those of the smallest usual scale that holds 95 %.

    Returns:
        (lowest, highest); infinite where nothing is configured and no usual scale holds the scores.
    """
    low, high = -np.inf, np.inf
    finite = scores[np.isfinite(scores)]
    if len(finite) and (minimum is None or maximum is None):
        held = [((finite >= first) & (finite <= last)).mean() >= _WITHIN for first, last in _USUAL_SCALES]
        low, high = next((scale for scale, holds in zip(_USUAL_SCALES, held, strict=True) if holds), (low, high))
    return (low if minimum is None else minimum), (high if maximum is None else maximum)


def _may_be(label: str, common: str) -> bool:
    if _plain(label) == _plain(common):
        return True
    digits = [[character for character in name if character.isdigit()] for name in (label, common)]
    if digits[0] != digits[1] or label[:1].casefold() != common[:1].casefold():
        return False
    matcher = difflib.SequenceMatcher(None, label.casefold(), common.casefold(), autojunk=False)
    return matcher.quick_ratio() >= _ALIKE and matcher.ratio() >= _ALIKE and abs(len(label) - len(common)) <= 2


def _plain(label: str) -> str:
    return "".join(character for character in label.casefold() if character.isalnum())


def _hint(label: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(label, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
