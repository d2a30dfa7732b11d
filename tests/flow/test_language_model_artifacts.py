"""What the artifacts of a language model's run quote: nothing that is set to be masked."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tunetrail import DataSciencePipeline
from tunetrail.config import Settings
from tunetrail.data.rows import rows_frame
from tunetrail.evaluation.answers import AnswerChecks, with_answers
from tunetrail.evaluation.scores import Scores
from tunetrail.pipeline.families import LLM, register_family
from tunetrail.samples import SampleKind, parse_sample

PERSONAL_DATA = ("jane.doe@example.com", "DE89 3704 0044 0532 0130 00", "+1 212 555 0123")


def write_personal_data(
    learner: Any, model: Any, records: Sequence[Any], scores: Scores, config: Any
) -> Scores:
    """Answer each row as a model would that has learnt personal data by heart."""
    answers = [f"Ask {PERSONAL_DATA[row % 3]} for more." for row in range(len(records))]
    return with_answers(scores, answers, ["the end"] * len(records), AnswerChecks())


@pytest.fixture(scope="module")
def artifacts(
    tmp_path_factory: pytest.TempPathFactory, make_settings: Callable[..., Settings]
) -> Any:
    folder = tmp_path_factory.mktemp("run")
    contents = [
        {"input": f"Who knows row {row}, {PERSONAL_DATA[row % 3]}?", "output": f"say {row * 37}"}
        for row in range(40)
    ]
    rows = rows_frame(enumerate(parse_sample(content, SampleKind.LLM) for content in contents))

    register_family(dataclasses.replace(LLM, add_answers=write_personal_data))
    try:
        pipeline = DataSciencePipeline(make_settings(folder))
        outcome = pipeline.run("llm", rows, until="evaluate")
    finally:
        register_family(LLM)
    client = pipeline.tracker.client
    return Path(client.download_artifacts(outcome.mlflow_run_id, "", str(folder)))


def test_no_artifact_quotes_personal_data(artifacts: Path) -> None:
    files = [path for path in artifacts.rglob("*") if path.is_file()]
    texts = {path.name: path.read_bytes() for path in files}
    # Parquet compresses its columns.
    rows = pd.read_parquet(artifacts / "evaluation/rows.parquet")
    texts["rows.parquet"] = rows.to_json(force_ascii=False).encode()

    for name, content in texts.items():
        for quoted in PERSONAL_DATA:
            assert quoted.encode() not in content, name
    assert set(rows["written"]) == {
        "Ask [EMAIL] for more.",
        "Ask [IBAN] for more.",
        "Ask [PHONE] for more.",
    }


def test_answers_are_a_table_that_only_the_owner_reads(artifacts: Path) -> None:
    path = artifacts / "answers.json"
    table = json.loads(path.read_text())

    assert path.stat().st_mode & 0o077 == 0
    prompt, after = (table["columns"].index(name) for name in ("prompt", "after"))
    assert any("[EMAIL]" in line[prompt] for line in table["data"])
    assert all(line[after].startswith("Ask [") for line in table["data"])


def test_the_costliest_tokens_of_the_rows_with_the_highest_loss_are_listed(artifacts: Path) -> None:
    table = json.loads((artifacts / "evaluation/tokens.json").read_text())
    tokens = pd.DataFrame(table["data"], columns=table["columns"])
    examples = json.loads((artifacts / "evaluation/examples.json").read_text())["highest_loss"]
    rows = pd.read_parquet(artifacts / "evaluation/rows.parquet").set_index("row_id")

    highest = rows["bits_per_byte"].nlargest(20)
    assert [example["row_id"] for example in examples] == highest.index.tolist()
    assert tokens["row_id"].unique().tolist() == highest.index.tolist()
    for example in examples:
        own = tokens[tokens["row_id"] == example["row_id"]]
        assert len(own) == len(example["tokens"]) <= 16
        # Both models have one tokenizer, so each token has the bits of both.
        assert own[["bits_before", "bits_after"]].notna().all(axis=None)
        assert own["bits_after"].sum() <= rows.loc[example["row_id"], "nats"] / 0.6931 + 0.01
        assert example["expected"].startswith("say ") and example["written"].startswith("Ask [")


@pytest.mark.processes
def test_a_root_of_another_tokenizer_is_compared_on_the_bytes_that_both_read(
    workplace: Path,
    make_settings: Callable[..., Settings],
    wordy_language_model: str,
    tmp_path: Path,
) -> None:
    contents = [
        {"input": f"ask {row}", "output": "the quick brown fox " * (1 + row % 8) + str(row * 37)}
        for row in range(40)
    ]
    rows = rows_frame(enumerate(parse_sample(content, SampleKind.LLM) for content in contents))
    settings = make_settings(workplace)
    llm = dataclasses.replace(settings.llm, max_length=90)

    first = DataSciencePipeline(dataclasses.replace(settings, llm=llm)).run("llm", rows)
    llm = dataclasses.replace(llm, model=wordy_language_model, start_from="base")
    pipeline = DataSciencePipeline(dataclasses.replace(settings, llm=llm))
    second = pipeline.run("llm", rows)

    assert (first.steps["comparison"]["against"], first.steps["comparison"]["unshared_bytes"]) == (
        "base",
        0,
    )
    comparison = second.steps["comparison"]
    assert comparison["against"] == "models:/llm/1"
    assert comparison["unshared_bytes"] > 0 and comparison["bytes"] > 0
    client = pipeline.tracker.client
    path = client.download_artifacts(second.mlflow_run_id, "evaluation/rows.parquet", str(tmp_path))
    table = pd.read_parquet(path).query("side == 'test'")
    assert table["bytes"].tolist() == table["reference_bytes"].tolist()
    assert table["bytes"].sum() == comparison["bytes"]
    assert (table["tokens"] < table["reference_tokens"]).any()
