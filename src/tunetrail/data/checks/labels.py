"""Labels and scores of a session: are they in balance, spelt as one of the known, and on which scale? Knows no rows."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tunetrail.errors import did_you_mean

USUAL_SCALES = (
    (0.0, 1.0),
    (-1.0, 1.0),
    (1.0, 5.0),
    (0.0, 5.0),
    (0.0, 10.0),
    (0.0, 100.0),
    (-100.0, 100.0),
)
"""Scales that scores are usually given on, as (minimum, maximum), narrowest first."""

_ENOUGH_ON_SCALE = 0.95
_WIDER_SCALE = {(0.0, 1.0): (-1.0, 1.0), (1.0, 5.0): (0.0, 5.0), (0.0, 100.0): (-100.0, 100.0)}
_FEW_BESIDE_SCALE = 0.01
_RARE_ROWS = 2
_RARE_SHARE = 0.02
_MOST_EDITS = 2
_CHARACTERS_PER_EDIT = 5
_LONGEST_LABEL = 200
_SEPARATOR = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")
_NUMBER = re.compile(r"\d+")


def imbalance(labels: Mapping[str, int]) -> float:
    """Return how many rows the commonest label has for one of the rarest; 1 without two labels that have rows.

    Args:
        labels: Rows by label; a label without rows isn't counted.
    """
    counts = [count for count in labels.values() if count > 0]
    return max(counts) / min(counts) if counts else 1.0


def unknown_labels(counts: Mapping[str, int], known: Sequence[str] | None) -> dict[str, str]:
    """Return the labels that nobody can have meant, each with the reason.

    With a list, these are the labels that aren't in it. Without one, they are rare labels (2 rows and 2 % of the other
    one's rows at most) that differ from a common one in case, in what separates their words, or by a slip in one word:
    one edit for each 5 letters, two at most, and the first letter right. What differs in a number or in a short word is
    different on purpose (`label_1` and `label_2`, `class_a` and `class_b`), and so are `internal` and `external`.

    Args:
        counts: Rows by label.
        known: All labels that may occur, or None.
    """
    present = [label for label, count in counts.items() if count > 0]
    if known is not None:
        allowed = set(known)
        return {label: _not_listed(label, known) for label in present if label not in allowed}
    common = sorted(
        (label for label in present if counts[label] > _RARE_ROWS), key=lambda label: -counts[label]
    )
    found: dict[str, str] = {}
    for label in present:
        meant = _meant_label(label, counts, common)
        if meant is not None:
            found[label] = (
                f"looks like a misspelling of a common label. Did you mean {_shown(meant)}?"
            )
    return found


def usual_scale(
    scores: npt.NDArray[np.float64], minimum: float | None, maximum: float | None
) -> tuple[float, float]:
    """Return the (minimum, maximum) that scores should lie between.

    What is configured counts. Without any bound, it is the smallest of `USUAL_SCALES` that holds at least 95 % of the
    finite scores, and (-inf, inf) if none does or there are no scores. Where more than 1 % of them are only on its
    other form (cosines below 0, a 0 beside 1 to 5), they are used and not wrong: it is that form. A bound that alone is
    missing is infinite.

    Args:
        scores: [rows]; values that aren't finite are left out.
        minimum: The configured lower bound, if any.
        maximum: The configured upper bound, if any.
    """
    if minimum is not None or maximum is not None:
        return (-np.inf if minimum is None else minimum, np.inf if maximum is None else maximum)
    finite = np.asarray(scores, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    for scale in USUAL_SCALES:
        held = _share_on(finite, scale)
        if held >= _ENOUGH_ON_SCALE:
            wider = _WIDER_SCALE.get(scale, scale)
            return wider if _share_on(finite, wider) - held > _FEW_BESIDE_SCALE else scale
    return -np.inf, np.inf


def _share_on(scores: npt.NDArray[np.float64], scale: tuple[float, float]) -> float:
    return float(np.mean((scores >= scale[0]) & (scores <= scale[1]))) if len(scores) else 0.0


def _not_listed(label: str, known: Sequence[str]) -> str:
    # difflib's time grows with the square of a word's length
    hint = did_you_mean(label, known) if len(label) <= _LONGEST_LABEL else ""
    return f"is none of the {len(known)} known labels.{hint}"


def _meant_label(label: str, counts: Mapping[str, int], common: Sequence[str]) -> str | None:
    if counts[label] > _RARE_ROWS or len(label) > _LONGEST_LABEL:
        return None
    enough = counts[label] / _RARE_SHARE
    candidates = [
        other for other in common if counts[other] >= enough and len(other) <= _LONGEST_LABEL
    ]
    words = _words(label)
    same = next((other for other in candidates if words and _words(other) == words), None)
    return same or next((other for other in candidates if _misspelt(words, _words(other))), None)


def _words(label: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", label).casefold().strip()
    return _SEPARATOR.sub(" ", folded).split()


def _misspelt(words: Sequence[str], right: Sequence[str]) -> bool:
    """Whether a slip in one word, or a separator that is missing or too much, makes `right` of `words`."""
    if _NUMBER.findall(" ".join(words)) != _NUMBER.findall(" ".join(right)):
        return False
    if len(words) != len(right):
        return "".join(words) == "".join(right)
    differing = [(one, other) for one, other in zip(words, right, strict=True) if one != other]
    return len(differing) == 1 and _slipped(*differing[0])


def _slipped(word: str, right: str) -> bool:
    allowed = min(_MOST_EDITS, len(right) // _CHARACTERS_PER_EDIT)
    # a wrong first letter is a rare slip, but the difference between many opposites
    return (
        word[0] == right[0]
        and abs(len(word) - len(right)) <= allowed
        and _edits(word, right) <= allowed
    )


def _edits(first: str, second: str) -> int:
    """Return the optimal string alignment distance: insertions, deletions, replacements, swaps of neighbours."""
    before, row = [0] * (len(second) + 1), list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        older, before, row = before, row, [i]
        for j, b in enumerate(second, start=1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and first[i - 2] == b:
                edits = min(edits, older[j - 2] + 1)
            row.append(edits)
    return row[-1]


def _shown(label: str) -> str:
    text = repr(label)
    return text if len(text) <= 60 else text[:57] + "..."
