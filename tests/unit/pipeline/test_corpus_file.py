import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tunetrail.config import CleaningConfig, EvaluationConfig, Settings
from tunetrail.data.rows import records_of, rows_frame
from tunetrail.errors import ConfigError
from tunetrail.evaluation.metric import Array
from tunetrail.evaluation.scoring import score_embedding
from tunetrail.pipeline.corpus_file import corpus_documents, warn_of_foreign_corpus
from tunetrail.pipeline.families import EMBEDDING
from tunetrail.pipeline.jobs import JobRows
from tunetrail.samples import SampleKind, parse_sample

PAIRS = [{"anchor": "bread?", "positive": "bread"}, {"anchor": "snow?", "positive": "snow"}]


def frame(*contents: dict[str, str]) -> pd.DataFrame:
    kind = SampleKind.EMBEDDING
    return rows_frame((row, parse_sample(content, kind)) for row, content in enumerate(contents))


def config_of(path: Path, *texts: str) -> EvaluationConfig:
    """Write the texts to the file, and return the settings that name it."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return EvaluationConfig(corpus_file=str(path))


def with_file(config: EvaluationConfig, rows: pd.DataFrame) -> pd.DataFrame:
    """Return what held-out rows are ranked against, the documents of the file included."""
    settings = Settings(evaluation=config)
    documents = corpus_documents(config, settings.cleaning)
    return EMBEDDING.corpus_rows(settings, rows, documents=documents)


def first_letters(texts: Sequence[str]) -> Array:
    """Return vectors by which texts are similar if they begin with the same letter."""
    return np.array([np.eye(26)[ord(text[0]) - ord("a")] for text in texts])


def test_documents_of_the_file_are_ranked_in_addition_to_the_sessions(tmp_path: Path) -> None:
    # A right answer is among them, apart from white space that cleaning removes.
    config = config_of(tmp_path / "index.jsonl", "fire", " bread ", "fire", "butter")
    corpus = with_file(config, frame(*PAIRS).tail(1))

    scores = score_embedding("pair", PAIRS[:1], first_letters, corpus=records_of(corpus))

    # bread, snow, fire, butter: the last one begins like the question, too.
    assert scores.documents == 4
    assert scores.metrics["mrr_at_10"] == 0.5
    # A document that is in no row of the session has no row.
    assert scores.per_example["top_wrong_row"].tolist() == [None]


def test_documents_of_the_file_are_halved_like_other_plain_texts(tmp_path: Path) -> None:
    config = config_of(tmp_path / "index.jsonl", "four fires")
    texts = [{"text": "one two"}, {"text": "three three"}]
    corpus = with_file(config, frame(*texts).tail(1))

    scores = score_embedding("text", texts[:1], first_letters, corpus=records_of(corpus))

    assert scores.documents == 3


def test_labels_and_scores_have_no_use_for_the_file(tmp_path: Path) -> None:
    config = config_of(tmp_path / "index.jsonl", "fire")
    labels = frame({"text": "bread", "label": "food"})
    assert list(with_file(config, labels)["text"]) == ["bread"]


def test_a_folds_folder_keeps_the_documents(tmp_path: Path) -> None:
    config = config_of(tmp_path / "index.jsonl", "fire", "moon")
    rows = frame(*PAIRS)
    corpus = with_file(config, rows)

    JobRows(train=rows, validation=rows, corpus=corpus).write(tmp_path / "fold-1")

    stored = pd.read_parquet(tmp_path / "fold-1" / "corpus.parquet")
    assert stored["text"].dropna().tolist() == ["fire", "moon"]
    assert stored["positive"].dropna().tolist() == ["bread", "snow"]


def test_parquet_is_read_as_well_and_a_changed_file_again(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    pd.DataFrame({"text": ["fire", "moon"]}).to_parquet(path)
    config = EvaluationConfig(corpus_file=str(path))
    assert corpus_documents(config, CleaningConfig()) == ("fire", "moon")

    pd.DataFrame({"text": ["sun"]}).to_parquet(path)
    assert corpus_documents(config, CleaningConfig()) == ("sun",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"txt": "b"}\n', r"a file whose rows have a `text`, got .row 2: .*txt"),
        ('{"text": "a"}\n{"text": 3}\n', r"a file whose rows have a `text`, got .row 2"),
        ('{"text": "a"}\n{"text": " "}\n', r"a file whose rows have a `text`, got .row 2"),
        ('{"text": "a"}\n{"text"\n', r"a file whose rows have a `text`, got .line 2 is not JSON"),
        ("", r"a readable file of rows, got .*is empty"),
        (None, r"an existing file, got .*index\.jsonl'\. Correct its path"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "index.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=rf"evaluation\.corpus_file must be {message}"):
        corpus_documents(EvaluationConfig(corpus_file=str(path)), CleaningConfig())


@pytest.mark.parametrize(("document", "is_foreign"), [("bread", False), ("fire", True)])
def test_a_file_without_any_right_answer_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, document: str, is_foreign: bool
) -> None:
    config = config_of(tmp_path / "index.jsonl", document)
    with caplog.at_level(logging.WARNING):
        documents = corpus_documents(config, CleaningConfig())
        warn_of_foreign_corpus(["bread", "snow"], documents, config)
    assert ("holds none of the 2 right answers" in caplog.text) == is_foreign


@pytest.mark.parametrize("cutoffs", [[], [0], [5, 5], [1001]])
def test_cutoffs_that_are_no_ranks_are_refused(cutoffs: list[int]) -> None:
    rule = "different whole numbers from 1 to 1000"
    with pytest.raises(ConfigError, match=rf"evaluation\.cutoffs must be {rule}, got"):
        EvaluationConfig(cutoffs=cutoffs)
