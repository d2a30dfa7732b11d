"""Fifty trainings with retention.keep_versions=3 need no more disk than five (half an hour)."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import BertConfig, BertModel

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.config import (
    CrossValidationConfig,
    EmbeddingConfig,
    EvaluationConfig,
    GateConfig,
    RetentionConfig,
    Settings,
    TrackingConfig,
    TrainingConfig,
)
from tunetrail.samples import SampleKind

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

TRAININGS = 50
WORDS = ["apple", "river", "engine", "window", "doctor", "garden", "planet", "violin", "island"]


@pytest.fixture
def wide_model(tiny_embedding_model: str, tmp_path: Path) -> str:
    """A tiny model whose vocabulary makes it as large as small real ones: 64 MB."""
    folder = tmp_path / "wide"
    shutil.copytree(tiny_embedding_model, folder)
    config = BertConfig.from_pretrained(folder)
    config.vocab_size = 500_000
    BertModel(config).save_pretrained(folder)
    return str(folder)


def sizes(folder: Path) -> dict[str, int]:
    """Return the bytes that each place takes."""
    places = {}
    for place in ("mlartifacts", "models", "training_output", "stores"):
        files = folder.glob("*.db*") if place == "stores" else (folder / place).rglob("*")
        places[place] = sum(file.lstat().st_size for file in files if file.is_file())
    return places


@pytest.fixture
def database(tmp_path: Path) -> Iterator[DatabaseManager]:
    drawn = random.Random(0)
    rows = []
    for number in range(60):
        text = f"the {drawn.choice(WORDS)} {number} near the {drawn.choice(WORDS)}"
        rows.append({"anchor": text, "positive": text.upper()})
    with DatabaseManager(f"sqlite:///{tmp_path}/tunetrail.db") as manager:
        manager.ingest("s1", rows, SampleKind.EMBEDDING)
        yield manager


def test_fifty_trainings_need_no_more_disk_than_five(
    workplace: Path, database: DatabaseManager, wide_model: str
) -> None:
    training = TrainingConfig(batch_size=16, num_epochs=1, warmup_steps=0, max_steps=2)
    gate = GateConfig(
        require_interval=False,
        minimum_improvement=-10.0,
        minimum_test_clusters=1,
        fresh_process=False,
    )
    settings = Settings(
        output_dir=str(workplace / "training_output"),
        model_dir=str(workplace / "models"),
        cross_validation=CrossValidationConfig(n_splits=0),
        embedding=EmbeddingConfig(model=wide_model, max_length=32, training=training),
        evaluation=EvaluationConfig(bootstrap_samples=100),
        tracking=TrackingConfig(
            uri=f"sqlite:///{workplace}/mlflow.db", artifacts=str(workplace / "mlartifacts")
        ),
        retention=RetentionConfig(keep_versions=3),
        gate=gate,
    )
    after: dict[int, dict[str, int]] = {}

    for number in range(1, TRAININGS + 1):
        # Every third candidate is promoted, and the others are refused.
        refusing = replace(gate, minimum_improvement=10.0)
        present = replace(settings, gate=gate if number % 3 == 1 else refusing)
        node = ModelTrainingNode(NodeConfig(settings=present), database)
        node.execute({"session_id": "s1", "model_type": "embedding"})
        after[number] = sizes(workplace)
        print(number, after[number], sum(after[number].values()), flush=True)

    fifth, last = sum(after[5].values()), sum(after[TRAININGS].values())
    assert last / fifth == pytest.approx(1, abs=0.05)
    # What grows is the record: parameters, metrics and the ledger. A card differs by some words.
    assert after[TRAININGS]["models"] == pytest.approx(after[5]["models"], rel=0.001)
    deleted = [line for line in database.promotions("embedding") if line.decision == "deleted"]
    assert len(deleted) == TRAININGS - 3
