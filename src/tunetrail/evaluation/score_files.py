"""Score files: the scores of a set of rows with the values of each example, as Parquet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tunetrail.evaluation.scores import Scores
from tunetrail.paths import replacing_file

_METADATA_KEY = b"tunetrail.scores"
# The columns of the file that say which row an example is, by their name in `Scores`.
_IDENTITY = {"row_ids": "row_id", "clusters": "cluster"}


def write_scores(scores: Scores, path: Path) -> None:
    """Write scores to one file, whole or not at all; it is on the disk when this returns."""
    columns = {name: values.tolist() for name, values in scores.per_example.items()}
    identity = {}
    for name, column in _IDENTITY.items():
        if getattr(scores, name) is not None:
            identity[column] = list(getattr(scores, name))

    # The types as well: of a column without values, Parquet only knows that it is empty.
    description = {
        "scores": scores.to_dict(),
        "types": {name: str(values.dtype) for name, values in scores.per_example.items()},
        "identity": list(identity),
    }
    arrays = {name: pa.array(values) for name, values in {**columns, **identity}.items()}
    metadata = {_METADATA_KEY: json.dumps(description, ensure_ascii=False)}
    table = pa.table(arrays).replace_schema_metadata(metadata)

    with replacing_file(path) as file:
        pq.write_table(table, file)


def read_scores(path: Path) -> Scores:
    """Return the scores of a file.

    Raises:
        OSError: The file can't be read.
        ValueError: It is broken.
        KeyError: `write_scores` didn't write it.
    """
    table = pq.read_table(path)
    description = json.loads((table.schema.metadata or {})[_METADATA_KEY])
    per_example = {}
    for name, dtype in description["types"].items():
        per_example[name] = np.array(table[name].to_pylist(), dtype=dtype)

    fields: dict[str, Any] = {}
    for name, column in _IDENTITY.items():
        if column in description["identity"]:
            fields[name] = table[column].to_pylist()
    for name in ("metric", "metrics", "documents", "corpus", "scored_rows", "side_rows"):
        fields[name] = description["scores"][name]
    return Scores(per_example=per_example, **fields)
