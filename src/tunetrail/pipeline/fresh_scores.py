"""Score a version's files in a process of its own.

`tunetrail.pipeline.fresh_process` starts `python -m tunetrail.pipeline.fresh_scores FOLDER PARENT`
with a folder and its own process id, whose end ends this process. No store is read, and MLflow
isn't imported: all that is needed lies in the folder, and so does what comes of it.

request.json          the family, the shape of the rows, the settings, and where the files are
rows.parquet          test rows
corpus.parquet        the rows that these are ranked against, if there are any
values.npz            the result: scores of each row, and what the model computes for their texts
output.log            what the process has printed
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from tunetrail.config import Settings, TrackingConfig
from tunetrail.data.rows import records_of, texts_of_rows
from tunetrail.errors import SampleError
from tunetrail.imports import importing
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.run_files import read_rows, write_json, write_rows
from tunetrail.pipeline.run_settings import plain_settings, settings_of
from tunetrail.processes import end_with

OUTPUT = "output.log"
_REQUEST, _ROWS, _CORPUS, _VALUES = "request.json", "rows.parquet", "corpus.parquet", "values.npz"

Values = Mapping[str, npt.NDArray[Any]]
"""What a model makes of rows, by name."""


@dataclass(frozen=True, kw_only=True)
class ScoringRequest:
    """What two processes compare a model by.

    Attributes:
        family: Name of the family.
        shape: The shape of the rows.
        settings: All that can be set; connections are not written to the folder.
        rows: Test rows, in all of which the model sees something to score.
        corpus: The rows that these are ranked against in addition.
        threads: Number of threads to compute with, on which the last digits depend.
    """

    family: str
    shape: str
    settings: Settings
    rows: pd.DataFrame
    corpus: pd.DataFrame
    threads: int

    def write(self, folder: Path, files: Path) -> None:
        """Write the request for a version's files to a folder."""
        write_rows(self.rows, folder / _ROWS)
        if len(self.corpus):
            write_rows(self.corpus, folder / _CORPUS)
        content = {
            "family": self.family,
            "shape": self.shape,
            "settings": plain_settings(self.settings, database=""),
            "threads": self.threads,
            "files": str(files),
        }
        write_json(content, folder / _REQUEST)

    @classmethod
    def read(cls, folder: Path) -> tuple["ScoringRequest", Path]:
        """Return the request of a folder, and the folder of the version's files."""
        content = json.loads((folder / _REQUEST).read_text(encoding="utf-8"))
        files = Path(content.pop("files"))
        settings = settings_of(content.pop("settings"), TrackingConfig())
        rows = read_rows(folder / _ROWS)
        has_corpus = (folder / _CORPUS).exists()
        corpus = read_rows(folder / _CORPUS) if has_corpus else rows.head(0)
        return cls(settings=settings, rows=rows, corpus=corpus, **content), files

    def values(self, family: ModelFamily, learner: Any, model: Any) -> Values:
        """Return what a model makes of the rows: the scores of each, and the outputs for its text.

        Two models that differ may rank the same documents first; their vectors or logits differ.
        """
        texts = [texts[0] for texts in texts_of_rows(self.rows)]
        outputs = {"outputs": family.flavor.outputs(model, texts)}
        score = family.score_primary or family.score
        records, corpus = records_of(self.rows), records_of(self.corpus)
        try:
            scores = score(learner, model, records, corpus, self.settings.evaluation)
        # Too few for a metric, or with nothing to find: labels that no other row has.
        except (SampleError, ValueError):
            return outputs

        # The metrics follow from these; what isn't a number names documents, or is a text.
        columns = scores.per_example.items()
        numbers = {name: values for name, values in columns if values.dtype.kind in "biuf"}
        return {**numbers, **outputs}


def read_values(folder: Path) -> Values:
    """Return the result that a folder holds."""
    with np.load(folder / _VALUES, allow_pickle=False) as stored:
        return dict(stored)


def main() -> None:
    """Score the files of a folder's request."""
    folder, parent = Path(sys.argv[1]), int(sys.argv[2])
    end_with(parent)
    request, files = ScoringRequest.read(folder)
    family = family_named(request.family)
    with importing():
        from tunetrail.learning.devices import thread_count

        learner = family.learner(request.settings, request.shape, None)

    with thread_count(request.threads):
        model = family.flavor.load(str(files))
        values = request.values(family, learner, model)
    np.savez(folder / _VALUES, allow_pickle=False, **values)


if __name__ == "__main__":
    main()
