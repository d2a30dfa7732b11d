"""Checks of a session's labels and scores: balance, spelling, and the scale that scores are on."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tunetrail.errors import did_you_mean
from tunetrail.samples.values import shortened

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

_WIDER_SCALE = {(0.0, 1.0): (-1.0, 1.0), (1.0, 5.0): (0.0, 5.0), (0.0, 100.0): (-100.0, 100.0)}
# Of the scores: a scale that holds fewer isn't the scale, and more outside it are no mistakes.
_ENOUGH_ON_SCALE = 0.95
_FEW_OFF_SCALE = 0.01

_RARE_ROWS = 2
_RARE_SHARE = 0.02
_SIMILAR_SHARE = 0.2
# The number of comparisons grows with the square.
_MOST_COMPARED = 500
_MOST_EDITS = 2
_CHARACTERS_PER_EDIT = 5
# difflib's time grows with the square of a word's length.
_LONGEST_LABEL = 200
_SEPARATOR = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")
_NUMBER = re.compile(r"\d+")


def imbalance(labels: Mapping[str, int]) -> float:
    """Return the number of rows of the most common label for each row of the rarest label.

    Fewer than two labels with rows give 1.

    Args:
        labels: Rows by label; a label without rows isn't counted.
    """
    counts = [count for count in labels.values() if count > 0]
    return max(counts) / min(counts) if counts else 1.0


def unknown_labels(counts: Mapping[str, int], known: Sequence[str] | None) -> dict[str, str]:
    """Return the labels that are probably mistakes, each with the reason.

    With a list of known labels, these are the labels that aren't in it. Without one, they are rare
    labels that look like a misspelling of a common label. Rare means at most 2 rows, and at most
    2 % of the common label's rows. A misspelling differs in case, in what separates the words, or
    by a slip in one word: one edit for each 5 letters, at most two, and the first letter right.

    Labels that differ in a number or in a short word differ on purpose (`label_1` and `label_2`,
    `class_a` and `class_b`), and so do `internal` and `external`.

    Args:
        counts: Rows by label.
        known: All labels that may occur, or None.
    """
    present = [label for label, count in counts.items() if count > 0]
    if known is not None:
        allowed = set(known)
        return {label: _not_listed(label, known) for label in present if label not in allowed}

    # The most common first: of several common labels that are meant, it is the likeliest.
    common = [label for label in present if counts[label] > _RARE_ROWS]
    common.sort(key=lambda label: -counts[label])

    misspelt = {}
    for label in present:
        intended = _intended_label(label, counts, common)
        if intended is not None:
            hint = f"Did you mean {shortened(intended)}?"
            misspelt[label] = f"looks like a misspelling of a common label. {hint}"
    return misspelt


def similar_labels(counts: Mapping[str, int]) -> dict[str, str]:
    """Return the labels that look like a commoner one, each with the commoner one.

    They have the same words in another case or with other separators, or differ by a slip in one
    word (see `unknown_labels`) and have at most a fifth of the commoner label's rows. They may be
    two labels or one: unlike a rare misspelling, that is for a person to decide.

    Args:
        counts: Rows by label; the 500 commonest are compared.
    """
    # By count and then by name, so that the result depends on no order of rows.
    present = [label for label in counts if counts[label] and len(label) <= _LONGEST_LABEL]
    present.sort(key=lambda label: (-counts[label], label))

    by_words: dict[tuple[str, ...], str] = {}
    similar = {}
    for label in present[:_MOST_COMPARED]:
        words = tuple(_words(label))
        commoner = by_words.setdefault(words, label)
        if commoner == label:
            much_commoner = [
                candidate
                for candidate in by_words.values()
                if counts[label] <= _SIMILAR_SHARE * counts[candidate]
            ]
            commoner = _same_but_for_a_slip(label, much_commoner) or label
        if commoner != label and words:
            similar[label] = commoner
    return similar


def usual_scale(
    scores: npt.NDArray[np.float64], minimum: float | None, maximum: float | None
) -> tuple[float, float]:
    """Return the (minimum, maximum) that scores should lie between.

    A configured bound counts, and the other bound is infinite if only one is configured. Without
    either, it is the narrowest of `USUAL_SCALES` that has at least 95 % of the finite scores, and
    (-inf, inf) if there is none or there are no scores.

    Some scales have a wider form, for cosines below 0 or a 0 on the scale from 1 to 5. If more than
    1 % of the scores are only on the wider form, they are no mistakes, and the wider form it is.

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
        share = _share_on(finite, scale)
        if share >= _ENOUGH_ON_SCALE:
            wider = _WIDER_SCALE.get(scale, scale)
            return wider if _share_on(finite, wider) - share > _FEW_OFF_SCALE else scale
    return -np.inf, np.inf


def _share_on(scores: npt.NDArray[np.float64], scale: tuple[float, float]) -> float:
    low, high = scale
    return float(np.mean((scores >= low) & (scores <= high))) if len(scores) else 0.0


def _not_listed(label: str, known: Sequence[str]) -> str:
    hint = did_you_mean(label, known) if len(label) <= _LONGEST_LABEL else ""
    return f"is none of the {len(known)} known labels.{hint}"


def _intended_label(label: str, counts: Mapping[str, int], common: Sequence[str]) -> str | None:
    """Return the common label that a rare one is a misspelling of, or None."""
    if counts[label] > _RARE_ROWS or len(label) > _LONGEST_LABEL:
        return None

    candidates = []
    for candidate in common:
        is_rarer = counts[label] <= _RARE_SHARE * counts[candidate]
        if is_rarer and len(candidate) <= _LONGEST_LABEL:
            candidates.append(candidate)
    return _same_but_for_a_slip(label, candidates)


def _same_but_for_a_slip(label: str, candidates: Sequence[str]) -> str | None:
    """Return the first candidate that the label is a misspelling of, or None."""
    words = _words(label)
    candidate_words = dict(zip(candidates, map(_words, candidates), strict=True))

    # The same words in another form are a surer sign than a slip in one of them.
    for candidate, intended in candidate_words.items():
        if words and intended == words:
            return candidate
    for candidate, intended in candidate_words.items():
        if _is_misspelling(words, intended):
            return candidate
    return None


def _words(label: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", label).casefold().strip()
    return _SEPARATOR.sub(" ", folded).split()


def _is_misspelling(words: Sequence[str], intended: Sequence[str]) -> bool:
    """Tell whether the words differ by one slip, or by a missing or extra separator."""
    # Numbers are never misspelt: `label_1` and `label_2` are two labels.
    if _NUMBER.findall(" ".join(words)) != _NUMBER.findall(" ".join(intended)):
        return False
    if len(words) != len(intended):
        return "".join(words) == "".join(intended)

    pairs = zip(words, intended, strict=True)
    differing = [(word, meant) for word, meant in pairs if word != meant]
    return len(differing) == 1 and _is_slip(*differing[0])


def _is_slip(word: str, intended: str) -> bool:
    allowed = min(_MOST_EDITS, len(intended) // _CHARACTERS_PER_EDIT)
    # A wrong first letter is a rare slip, but it is what many opposites differ by.
    return (
        word[0] == intended[0]
        and abs(len(word) - len(intended)) <= allowed
        and _edit_distance(word, intended) <= allowed
    )


def _edit_distance(first: str, second: str) -> int:
    """Return the optimal string alignment distance.

    It counts insertions, deletions, replacements and swaps of neighbours.
    """
    # Row by row of the dynamic programme; a swap needs the row before the last, too.
    above, row = [0] * (len(second) + 1), list(range(len(second) + 1))
    for i, character in enumerate(first, start=1):
        two_above, above, row = above, row, [i]
        for j, other_character in enumerate(second, start=1):
            replaced = above[j - 1] + (character != other_character)
            edits = min(above[j] + 1, row[j - 1] + 1, replaced)
            if i > 1 and j > 1 and character == second[j - 2] and first[i - 2] == other_character:
                edits = min(edits, two_above[j - 2] + 1)
            row.append(edits)
    return row[-1]
