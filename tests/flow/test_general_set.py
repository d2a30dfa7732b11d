"""A candidate meets rows that no session has, and is refused if it is worse on them."""

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.tracking import client_of

from tunetrail import DatabaseManager, DataSciencePipeline, ModelTrainingNode, NodeConfig
from tunetrail.config import EvaluationConfig, GenerationConfig, Settings
from tunetrail.data.rows import rows_frame
from tunetrail.errors import ConfigError
from tunetrail.samples import SampleKind, parse_sample

pytestmark = pytest.mark.processes

Make = Callable[..., Settings]
GENERAL_ROWS = 60


def general_rows() -> list[dict[str, Any]]:
    """Pairs and completions of words that are in no session."""
    drawn = random.Random(7)
    rows: list[dict[str, Any]] = []
    for _ in range(GENERAL_ROWS):
        text = " ".join("".join(drawn.choices("qrstuvw", k=5)) for _ in range(8))
        rows.append({"anchor": text, "positive": text.upper()})
        rows.append({"input": text, "output": " ".join(reversed(text.split()))})
    return rows


def with_general_file(settings: Settings, path: Path, *rows: dict[str, Any]) -> Settings:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = EvaluationConfig(
        bootstrap_samples=100, generation=GenerationConfig(rows=0), general_file=str(path)
    )
    return dataclasses.replace(settings, evaluation=evaluation)


def with_rate(settings: Settings, rate: float) -> Settings:
    training = dataclasses.replace(settings.embedding.training, learning_rate=rate)
    embedding = dataclasses.replace(settings.embedding, training=training)
    return dataclasses.replace(settings, embedding=embedding)


def train(settings: Settings, database: DatabaseManager, model_type: str) -> dict[str, Any]:
    results = ModelTrainingNode(NodeConfig(settings=settings), database).execute(
        {"session_id": "s1", "model_type": model_type}
    )
    steps: dict[str, Any] = results["results"]["steps"]
    return steps


def test_both_families_are_compared_on_the_rows_of_the_file_that_they_do_not_learn(
    database: DatabaseManager,
    session: str,
    workplace: Path,
    make_settings: Make,
    make_rows: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = workplace / "general.jsonl"
    # The session's rows come again; those of its train side are learnt from.
    rows = [*general_rows(), *make_rows("pair"), *make_rows("completion")]
    settings = with_general_file(make_settings(workplace), path, *rows)

    steps = train(settings, database, "all")

    for model_type in ("embedding", "llm"):
        train_rows = steps["evaluation"][model_type]["split"]["rows"]["train"]
        (change,) = steps["comparison"][model_type]["general_set"].values()
        assert list(steps["comparison"][model_type]["general_set"]) == ["general.jsonl"]
        assert change["metric"] == steps["comparison"][model_type]["metric"]
        assert change["left_out_rows"] >= train_rows > 0
        assert change["scored_rows"] + change["left_out_rows"] == change["side_rows"]
        assert change["scored_rows"] >= GENERAL_ROWS

        run_id = steps["deployment"][model_type]["mlflow_run_id"]
        run = client_of(settings.tracking.uri).get_run(run_id)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert run.data.params["general_file_sha256"] == digest
        assert run.data.metrics["general_set/improvement"] == change["improvement"]
        assert run.data.metrics["general_set/left_out_rows"] == change["left_out_rows"]
        left_out = f"{model_type}: {change['left_out_rows']} of {change['side_rows']} rows of"
        assert f"{left_out} general.jsonl are left out" in caplog.text


def test_a_candidate_that_loses_on_the_general_set_is_refused(
    database: DatabaseManager, session: str, workplace: Path, make_settings: Make
) -> None:
    settings = with_general_file(
        make_settings(workplace), workplace / "general.jsonl", *general_rows()
    )

    # So high a rate that the model ends with the same vector for every text.
    steps = train(with_rate(settings, 1.0), database, "embedding")

    deployment = steps["deployment"]["embedding"]
    assert deployment["decision"] == "refused"
    assert f"on {GENERAL_ROWS} rows of the general set general.jsonl, where" in deployment["reason"]

    # A gate that accepts such losses lets the same training through.
    gate = dataclasses.replace(settings.gate, maximum_loss=1.0)
    lenient = dataclasses.replace(with_rate(settings, 1.0), gate=gate)
    steps = train(lenient, database, "embedding")
    assert steps["deployment"]["embedding"]["decision"] == "promoted"


def test_a_run_goes_on_only_with_the_file_that_it_began_with(
    workplace: Path, make_settings: Make, make_rows: Any
) -> None:
    path = workplace / "general.jsonl"
    settings = with_general_file(
        make_settings(workplace), path, *general_rows(), *make_rows("pair")
    )
    samples = [parse_sample(row, SampleKind.EMBEDDING) for row in make_rows("pair")]
    rows = rows_frame(enumerate(samples, start=1))
    pipeline = DataSciencePipeline(settings)
    fitted = pipeline.run("embedding", rows, until="fit")
    run = pipeline.tracker.run(fitted.mlflow_run_id)
    original = path.read_bytes()

    with path.open("ab") as file:
        file.write(b'{"anchor": "one more", "positive": "row"}\n')
    with pytest.raises(ConfigError, match=r"general_file must be the file that the run began with"):
        pipeline.run("embedding", rows, resumed=run)
    path.write_bytes(original)
    outcome = pipeline.run("embedding", rows, resumed=run)

    assert outcome.evaluation is not None and fitted.prepared is not None
    (change,) = outcome.evaluation.general_set.values()
    # Without a database too, the rows to learn from are known.
    assert change.left_out_rows >= len(fitted.prepared.split.train)
    assert change.scored_rows is not None and change.scored_rows >= GENERAL_ROWS


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("pair", r"at least 2 rows that aren't learnt from, got '48 rows, 4\d of them with near"),
        (
            "score",
            r"rows like the session's \(of the shape pair\), got 'general\.jsonl with",
        ),
    ],
)
def test_a_set_that_tells_nothing_is_refused_before_the_training(
    database: DatabaseManager,
    session: str,
    workplace: Path,
    make_settings: Make,
    make_rows: Any,
    shape: str,
    message: str,
) -> None:
    rows = make_rows(shape)
    if shape == "pair":
        # Every row has a twin on the train side: one group holds them all.
        rows = [{**row, "group": "all"} for row in rows]
    settings = with_general_file(make_settings(workplace), workplace / "general.jsonl", *rows)

    with pytest.raises(ConfigError, match=rf"general_file must be a file with {message}"):
        train(settings, database, "embedding")
