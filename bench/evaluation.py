"""Evaluation: seconds for metrics, intervals, comparison and slices of many rows, after encoding. Loads no model."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bench.results import Figure, Options, Result
from tunetrail.config import EvaluationConfig
from tunetrail.evaluation.comparison import compare
from tunetrail.evaluation.intervals import metric_intervals
from tunetrail.evaluation.scores import Scores
from tunetrail.evaluation.scoring import score_embedding
from tunetrail.evaluation.slices import EMBEDDING_CLUSTER, embedding_clusters, score_slices

_ROWS, _DOCUMENTS, _DIMENSIONS, _SEED = 100_000, 20_000, 384, 42
_MOST_SECONDS = 60.0
_NOISE = {"reference": 4.6, "candidate": 4.4}
"""How far the vectors of each model scatter around the right ones."""

Vectors = np.ndarray[Any, np.dtype[np.float32]]
Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]
"""The test rows, and the rows of the corpus."""


def run(options: Options) -> list[Result]:
    """Evaluate two models on rows of the shapes `score` and `pair`."""
    rows = options.rows or _ROWS
    return [_measure(shape, rows) for shape in ("score", "pair")]


def _measure(shape: str, rows: int) -> Result:
    generator = np.random.default_rng(_SEED)
    documents = min(_DOCUMENTS, rows)
    right = generator.integers(documents, size=rows)
    records, corpus = _ROWS_OF[shape](right, documents)
    clusters = [str(row * 2 // 3) for row in range(rows)]
    attributes = _attributes(generator, rows)

    base = generator.normal(size=(documents, _DIMENSIONS)).astype(np.float32)
    encoders = {}
    for model, noise in _NOISE.items():
        scatter = generator.normal(size=(rows, _DIMENSIONS)).astype(np.float32)
        encoders[model] = _encoder(base, base[right] + np.float32(noise) * scatter)

    seconds: dict[str, float] = {}
    processor_start = time.process_time()
    models: dict[str, Scores] = {}
    config = EvaluationConfig()
    for model, encode in encoders.items():
        scores = _timed(seconds, "metrics", score_embedding, shape, records, encode, corpus=corpus)
        models[model] = replace(scores, clusters=clusters)
    settings = {"confidence": config.confidence, "seed": _SEED}
    resampling = {"bootstrap_samples": config.bootstrap_samples, **settings}
    for scores in models.values():
        _timed(seconds, "intervals", metric_intervals, scores, **resampling)
    before, after = models.values()
    _timed(seconds, "comparison", compare, before, after, **resampling)

    queries = encoders["candidate"]([record["query"] for record in records])
    attributes[EMBEDDING_CLUSTER] = _timed(
        seconds, "slices", embedding_clusters, queries, range(rows), _SEED
    )
    attributes = attributes.astype(str).astype(object)
    slices = _timed(seconds, "slices", score_slices, before, after, attributes, **settings)

    processor_seconds = time.process_time() - processor_start
    figures = [Figure(name=step, unit="s", values=[taken]) for step, taken in seconds.items()]
    total = Figure(
        name="everything", unit="s", values=[sum(seconds.values())], at_most=_MOST_SECONDS
    )
    # On a machine that does other work, the only one of the two that says anything.
    figures.append(Figure(name="seconds of all cores", unit="s", values=[processor_seconds]))
    details = {"rows": rows, "documents": after.documents, "slices": len(slices)}
    return Result(name=f"evaluation of {shape}", figures=[*figures, total], details=details)


def _timed(
    seconds: dict[str, float], step: str, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    """Return what a function returns, and add its seconds to the seconds of a step."""
    start = time.perf_counter()
    result = function(*args, **kwargs)
    seconds[step] = seconds.get(step, 0.0) + time.perf_counter() - start
    return result


def _encoder(documents: Vectors, queries: Vectors) -> Callable[[Sequence[str]], Vectors]:
    """Return a function from names of texts (`d` or `q` and a position) to their vectors."""
    vectors = {"d": documents, "q": queries}

    def encode(texts: Sequence[str]) -> Vectors:
        positions = [int(text[1:]) for text in texts]
        return vectors[texts[0][0]][positions]

    return encode


def _pair_rows(right: np.ndarray[Any, Any], documents: int) -> Rows:
    records = []
    for row, document in enumerate(right.tolist()):
        records.append(
            {"row_id": row, "query": f"q{row}", "anchor": f"q{row}", "positive": f"d{document}"}
        )
    corpus = [{"row_id": -1, "text": f"d{document}"} for document in range(documents)]
    return records, corpus


def _score_rows(right: np.ndarray[Any, Any], documents: int) -> Rows:
    """Every other pair is a positive one: with gold scores of 0 and 1, there are most metrics."""
    records = []
    for row, document in enumerate(right.tolist()):
        second = document if row % 2 else (document + 1) % documents
        records.append(
            {
                "row_id": row,
                "query": f"q{row}",
                "sentence1": f"q{row}",
                "sentence2": f"d{second}",
                "score": float(row % 2),
            }
        )
    return records, []


_ROWS_OF: Mapping[str, Callable[..., Rows]] = {"pair": _pair_rows, "score": _score_rows}


def _attributes(generator: np.random.Generator, rows: int) -> pd.DataFrame:
    """Return a quarter of lengths, a language and a source of each row."""
    values = {"characters": 4, "language": 3, "source": 20}
    columns = {name: generator.integers(count, size=rows) for name, count in values.items()}
    return pd.DataFrame(columns)
