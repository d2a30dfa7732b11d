"""Documentation and code of Python's standard library, no two of them alike."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer

from tunetrail.data.stdlib_docs import stdlib_docs
from tunetrail.samples import SampleKind

_LONGEST_CODE = 400
_MOST_ALIKE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class RealText:
    """A documented function or class: the first paragraph of its documentation, its code, and the package it is in."""

    documentation: str
    code: str
    package: str


@cache
def real_texts(seed: int) -> tuple[RealText, ...]:
    """Return all short ones in random order; of those with similar documentation or code only the first."""
    found = [
        RealText(
            documentation=row["anchor"],
            code=row["positive"],
            package=row["group"].partition(".")[0],
        )
        for row in stdlib_docs(SampleKind.EMBEDDING, longest_code=_LONGEST_CODE)
    ]
    random.Random(seed).shuffle(found)
    sides = ([each.documentation for each in found], [each.code for each in found])
    alone = np.logical_and.reduce([_unlike_earlier(side) for side in sides])
    return tuple(each for each, is_alone in zip(found, alone, strict=True) if is_alone)


def _unlike_earlier(texts: Sequence[str]) -> np.ndarray:
    """Return which texts share at most half of their character 5-grams with any earlier one (Jaccard, exact)."""
    grams = CountVectorizer(
        analyzer="char", ngram_range=(5, 5), binary=True, dtype=np.int32
    ).fit_transform(texts)
    sizes = np.asarray(grams.sum(axis=1)).ravel()
    shared = (grams @ grams.T).tocoo()
    first, second = shared.row, shared.col
    alike = (first < second) & (
        shared.data > _MOST_ALIKE * (sizes[first] + sizes[second] - shared.data)
    )
    unlike = np.ones(len(texts), dtype=bool)
    unlike[second[alike]] = False
    return unlike
