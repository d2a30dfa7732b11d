"""The general file: which rows a family takes from it, and which files are refused."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tunetrail.config import EvaluationConfig, Settings
from tunetrail.errors import ConfigError
from tunetrail.pipeline.families import EMBEDDING, LLM
from tunetrail.pipeline.general_file import read_general_file
from tunetrail.pipeline.requests import read_general_files
from tunetrail.samples import SampleKind

PAIRS = [
    {"anchor": "what is bread?", "positive": " bread is baked dough ", "group": "food"},
    {"anchor": "what is snow?", "positive": "snow is frozen rain"},
]
COMPLETION = {"input": "what is fire?", "output": "a flame"}


def settings_of(path: Path, *rows: dict[str, Any], limit: int = 2_000) -> Settings:
    """Write the rows to the file, and return the settings that name it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Settings(evaluation=EvaluationConfig(general_file=str(path), benchmark_rows=limit))


def test_each_family_takes_its_rows_clean_and_by_their_place_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "general.jsonl"
    settings = settings_of(path, COMPLETION, *PAIRS)

    pairs = read_general_file(settings, SampleKind.EMBEDDING)
    completions = read_general_file(settings, SampleKind.LLM)

    assert pairs is not None and completions is not None
    assert pairs.rows["row_id"].tolist() == [2, 3]
    assert pairs.rows["positive"].tolist() == ["bread is baked dough", "snow is frozen rain"]
    assert completions.rows["output"].tolist() == ["a flame"]
    assert pairs.name == "general.jsonl"
    assert pairs.digest == completions.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_file_may_have_the_columns_of_public_data_sets(tmp_path: Path) -> None:
    alpaca = {"instruction": "Add.", "input": "1, 2", "output": "3"}
    negatives = {"query": "what is bread?", "pos": ["baked dough"], "neg": ["rain", "a flame"]}
    settings = settings_of(tmp_path / "general.jsonl", alpaca, negatives, PAIRS[1])

    pairs = read_general_file(settings, SampleKind.EMBEDDING)
    completions = read_general_file(settings, SampleKind.LLM)

    assert pairs is not None and completions is not None
    assert pairs.rows["negative"].tolist() == ["rain", "a flame", None]
    assert pairs.rows["row_id"].tolist() == [1, 2, 3]
    assert completions.rows["input"].tolist() == ["Add.\n\n1, 2"]


def test_rows_of_other_objectives_are_no_part_of_the_set(tmp_path: Path) -> None:
    score = {"sentence1": "bread", "sentence2": "dough", "score": 0.7}
    messages = [{"role": "user", "content": "fire?"}, {"role": "assistant", "content": "a flame"}]
    settings = settings_of(
        tmp_path / "general.jsonl", *PAIRS, score, COMPLETION, {"messages": messages}
    )

    embedding = read_general_file(settings, SampleKind.EMBEDDING)
    llm = read_general_file(settings, SampleKind.LLM)

    assert embedding is not None and llm is not None
    assert set(embedding.general_set("pair", settings)["shape"]) == {"pair"}
    # What a language model learns from together it is scored on together.
    assert list(llm.general_set("completion", settings)["shape"]) == ["completion", "chat"]


def test_the_set_is_drawn_by_content_and_near_duplicates_are_one_cluster(tmp_path: Path) -> None:
    texts = [f"the {word} has a colour of its own in every season of the year" for word in "abcdef"]
    rows = [{"anchor": text, "positive": f"{text[4]} is green"} for text in texts]
    path = tmp_path / "general.jsonl"

    def drawn(*ordered: dict[str, Any]) -> pd.DataFrame:
        settings = settings_of(path, *ordered, limit=4)
        general_file = read_general_file(settings, SampleKind.EMBEDDING)
        assert general_file is not None
        return general_file.general_set("pair", settings)

    forwards, backwards = drawn(*rows, *PAIRS), drawn(*PAIRS, *reversed(rows))

    assert len(forwards) == 4
    assert sorted(forwards["anchor"]) == sorted(backwards["anchor"])
    similar = forwards["anchor"].str.startswith("the ")
    assert forwards.loc[similar, "cluster"].nunique() == 1


def test_csv_and_parquet_are_read_as_well(tmp_path: Path) -> None:
    for path in (tmp_path / "general.csv", tmp_path / "general.parquet"):
        frame = pd.DataFrame([{"text": "bread", "label": "food"}, {"text": "tea", "label": "food"}])
        frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
        settings = Settings(evaluation=EvaluationConfig(general_file=str(path)))

        general_file = read_general_file(settings, SampleKind.EMBEDDING)

        assert general_file is not None and general_file.rows["label"].tolist() == ["food", "food"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"anchor": "a"}\n', r"whose rows can all be scored, got row 1: columns must hold one of"),
        ('{"text": "a"}\n{"text": 3}\n', r"whose rows can all be scored, got row 2: text must be"),
        (
            '{"text": "a"}\n{"text": " "}\n',
            r"whose rows can all be scored, got row 2: text is empty\. Correct",
        ),
        ('{"text": "a"}\n{"text"\n', r"whose rows can all be scored, got line 2 is not JSON"),
    ],
)
def test_a_file_with_an_unusable_row_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text(content)
    settings = Settings(evaluation=EvaluationConfig(general_file=str(path)))
    with pytest.raises(ConfigError, match=rf"evaluation\.general_file must be a file {message}"):
        read_general_file(settings, SampleKind.EMBEDDING)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "general.jsonl"
    settings = Settings(evaluation=EvaluationConfig(general_file=str(path)))
    with pytest.raises(ConfigError, match=r"general_file must be an existing file, got .*jsonl'"):
        read_general_file(settings, SampleKind.LLM)
    path.touch()
    with pytest.raises(ConfigError, match=r"must be a readable file of rows, got .*is empty"):
        read_general_file(settings, SampleKind.LLM)


def test_a_file_without_rows_for_a_family_is_refused(tmp_path: Path) -> None:
    settings = settings_of(tmp_path / "general.jsonl", *PAIRS)

    read_general_files(settings, [EMBEDDING])

    with pytest.raises(ConfigError, match=r"general_file must be a file with llm rows, got .*null"):
        read_general_files(settings, [EMBEDDING, LLM])
    general_file = read_general_file(settings, SampleKind.EMBEDDING)
    assert general_file is not None
    with pytest.raises(ConfigError, match=r"shape score\), got 'general\.jsonl with pair'\. Add"):
        general_file.general_set("score", settings)


def test_nothing_is_read_without_a_file() -> None:
    assert read_general_file(Settings(), SampleKind.EMBEDDING) is None


def test_a_file_needs_room_in_the_benchmark() -> None:
    config = EvaluationConfig(general_file="general.jsonl")
    with pytest.raises(ConfigError, match=r"benchmark_rows must be at least 1 with .*, got 0"):
        dataclasses.replace(config, benchmark_rows=0)
    with pytest.raises(ConfigError, match=r"general_file must be null or the path of a file"):
        EvaluationConfig(general_file="")
