"""Classification by vectors: how well labels are read off vectors, near ones or by a line.

scikit-learn is imported by the functions that need it: whoever only names metrics does without.
"""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Documents that vote for the label of a query.
_NEIGHBOURS = 10
# Steps of the probe's optimiser, as in MTEB: more of them hardly change what is predicted.
_PROBE_ITERATIONS = 100


def nearest_neighbour_codes(documents: Array, codes: Array, queries: Array) -> Array:
    """Return the most common code among the 10 documents nearest to each query, [queries].

    Args:
        documents: Vectors [documents, dimensions].
        codes: Label of each document as an integer, [documents].
        queries: Vectors [queries, dimensions].
    """
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = min(_NEIGHBOURS, len(documents))
    classifier = KNeighborsClassifier(neighbours, metric="cosine", algorithm="brute")
    predicted: Array = classifier.fit(documents, codes).predict(queries)
    return predicted


def probe_codes(documents: Array, codes: Array, queries: Array) -> Array:
    """Return the code that a logistic regression on the documents predicts for each query.

    A linear probe (Alain and Bengio 2016, https://arxiv.org/abs/1610.01644): it asks what a cheap
    classifier on top of the frozen vectors can tell.

    Args:
        documents: Vectors [documents, dimensions].
        codes: Label of each document as an integer, of at least two kinds, [documents].
        queries: Vectors [queries, dimensions].
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(max_iter=_PROBE_ITERATIONS)
    with warnings.catch_warnings():
        # Every model's probe stops after the same steps, so it needs no warning.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(documents, codes)
    predicted: Array = probe.predict(queries)
    return np.asarray(predicted)
