"""The corpus file: documents of the application's own index that test queries rank as well."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.config import CleaningConfig, EvaluationConfig
from tunetrail.config.checks import check
from tunetrail.data.cleaning import clean_rows
from tunetrail.data.formats import Row, read_rows
from tunetrail.data.rows import object_series, shown
from tunetrail.errors import ConfigError, SampleError
from tunetrail.evaluation.shape_scorers import NO_ROW
from tunetrail.samples import BrokenRow

logger = logging.getLogger(__name__)

_FIELD = "evaluation.corpus_file"

RANKED_SHAPES = ("pair", "text")
"""Shapes whose documents need no label, so that any text can be one."""

# The columns of a corpus whose texts are ranked.
_COLUMNS = ("anchor", "positive", "negative", "text")


def with_documents(rows: pd.DataFrame, documents: Sequence[str]) -> pd.DataFrame:
    """Return the rows of a corpus and a row of the shape `text` for each document.

    Args:
        rows: Rows of the session, of one of `RANKED_SHAPES`.
        documents: The documents of the corpus file; without any, the rows stay as they are.
    """
    if not documents:
        return rows

    columns: dict[str, Any] = {
        "row_id": [*rows["row_id"], *[NO_ROW] * len(documents)],
        "shape": [*rows["shape"], *["text"] * len(documents)],
    }
    for name in _COLUMNS:
        texts = rows[name].tolist() if name in rows else [None] * len(rows)
        columns[name] = [*texts, *(documents if name == "text" else [None] * len(documents))]
    combined = pd.DataFrame({name: object_series(values) for name, values in columns.items()})
    return combined.astype({"row_id": "int64"})


def corpus_documents(config: EvaluationConfig, cleaning: CleaningConfig) -> Sequence[str]:
    """Return the different documents of the corpus file, cleaned; none without a file.

    They are cleaned like the session's texts: otherwise, one that differs from a right answer by a
    space would count as a wrong document that ties with it.

    Raises:
        ConfigError: The file can't be read, or a row of it has no text.
    """
    if config.corpus_file is None:
        return ()
    path = Path(config.corpus_file)
    check(path.is_file(), _FIELD, "an existing file", config.corpus_file, "Correct its path.")
    # With its time, so that a changed file is read again.
    texts = _read_texts(path, path.stat().st_mtime_ns)

    frame = pd.DataFrame({"row_id": np.arange(len(texts)), "shape": "text"})
    frame["text"] = object_series(texts)
    cleaned = clean_rows(frame, cleaning).rows["text"]
    return tuple(dict.fromkeys(cleaned))


@functools.lru_cache(maxsize=1)
def _read_texts(path: Path, modified: int) -> Sequence[str]:
    """Return the texts of the rows of a file."""
    texts = []
    try:
        for position, row in enumerate(read_rows(path), start=1):
            texts.append(_text_of(row, position))
    except SampleError as error:
        raise ConfigError(f"{_FIELD} must be a readable file of rows, got {error}") from error
    return texts


def _text_of(row: Row, position: int) -> str:
    """Return the text of a row; raises `ConfigError` if there is none."""
    if isinstance(row, BrokenRow):
        text, problem = None, row.reason
    else:
        text, problem = row.get("text"), f"row {position}: {shown(dict(row))}"
    is_text = isinstance(text, str) and bool(text.strip())
    advice = "Give every row a text, or remove the row."
    check(is_text, _FIELD, "a file whose rows have a `text`", problem, advice)
    return str(text)


def warn_of_foreign_corpus(
    answers: Sequence[str], documents: Sequence[str], config: EvaluationConfig
) -> None:
    """Log a warning if the corpus file holds none of the right answers of the test rows.

    They are ranked all the same, but the file may be the wrong one.
    """
    if documents and answers and set(documents).isdisjoint(answers):
        logger.warning(
            "%s=%s holds none of the %d right answers of the test rows; they are ranked in "
            "addition to its %d documents. Check that it is the right file.",
            _FIELD,
            config.corpus_file,
            len(set(answers)),
            len(documents),
        )
