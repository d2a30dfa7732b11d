"""A family from outside the package: a classifier of tickets goes from a file to a registered root."""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import mlflow
import numpy as np
import numpy.typing as npt
import pytest
from mlflow.models import Model
from tests.tracking import client_of

from tunetrail import DatabaseManager, ModelTrainingNode, NodeConfig
from tunetrail.cache import ResultCache
from tunetrail.cli import main
from tunetrail.config import (
    CrossValidationConfig,
    EvaluationConfig,
    GateConfig,
    Settings,
    TrainingConfig,
)
from tunetrail.evaluation.scores import Scores, scores_from
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.models.catalog import Catalog
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.pipeline import families
from tunetrail.pipeline.families import register_family
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.samples import ColumnType, SampleKind, SampleShape, register_shape, shapes

pytestmark = pytest.mark.processes

QUEUES = {"billing": "invoice payment refund", "access": "password login account"}
WORDS = ["please", "could", "somebody", "look", "into", "this", "soon", "urgent", "today", "thanks"]
FEATURES = 1024
Array = npt.NDArray[np.float64]
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TicketModel:
    """A linear classifier on token counts: a weight for each queue and each hashed token."""

    queues: tuple[str, ...]
    weights: Array

    def logits(self, texts: Sequence[str]) -> Array:
        """Return [texts, queues]."""
        return token_counts(texts) @ self.weights.T


def token_counts(texts: Sequence[str]) -> Array:
    """Return how often each hashed token occurs in each text, [texts, features]."""
    counts = np.zeros((len(texts), FEATURES))
    for row, text in enumerate(texts):
        for token, count in Counter(text.lower().split()).items():
            counts[row, crc32(token.encode()) % FEATURES] += count
    return counts


def save_model(model: TicketModel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"queues": model.queues, "weights": model.weights.tolist()}
    (folder / "config.json").write_text('{"model_type": "ticket"}')
    (folder / "weights.json").write_text(json.dumps(weights))


def load_model(folder: str | Path) -> TicketModel:
    content = json.loads((Path(folder) / "weights.json").read_text())
    return TicketModel(queues=tuple(content["queues"]), weights=np.array(content["weights"]))


@dataclass(frozen=True, kw_only=True)
class TicketSection:
    """The family's settings."""

    model: str
    max_length: int = 32
    start_from: str = "root"
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=8, learning_rate=0.5, num_epochs=30)
    )


@dataclass(frozen=True, kw_only=True)
class TicketTokenCounter:
    """Counts the words of a text."""

    max_length: int
    identity: str = "ticket:words"

    def of_texts(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        return np.array([len(text.split()) for text in texts], dtype=np.int64)

    def of_records(self, records: Sequence[dict[str, Any]]) -> npt.NDArray[np.int64]:
        return self.of_texts([record["subject"] for record in records])


class TicketLearner:
    """Trains by gradient descent on the cross-entropy."""

    def check(
        self, path: str, records: Sequence[Record], load: Callable[[str], TicketModel]
    ) -> None:
        assert {record["queue"] for record in records} <= set(load(path).queues)

    def load(self, path: str) -> TicketModel:
        return load_model(path)

    def save(self, model: TicketModel, folder: Path) -> None:
        save_model(model, folder)

    def find_auto_values(
        self, path: str, train: Sequence[Record], training: TrainingConfig, ranks: int
    ) -> AutoValues:
        return AutoValues()

    def train(
        self,
        path: str,
        train: Sequence[Record],
        validation: Sequence[Record],
        training: TrainingConfig,
        plan: TrainingPlan,
    ) -> tuple[TicketModel, FitResult]:
        model = self.load(path)
        weights = model.weights.copy()
        counts = token_counts([record["subject"] for record in train])
        targets = np.array(
            [[record["queue"] == queue for queue in model.queues] for record in train]
        )

        history = []
        for step in range(training.num_epochs):
            logits = counts @ weights.T
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
            weights -= training.learning_rate * (probabilities - targets).T @ counts / len(train)

            loss = float(-np.log((probabilities * targets).sum(axis=1)).mean())
            history.append((step, loss))
            plan.on_metrics({"train/loss": loss}, step)

        result = FitResult(
            steps=training.num_epochs,
            epochs=training.num_epochs,
            seconds=0.1,
            precision="64-true",
            stopped_early=False,
            best_validation_loss=None,
            history={"train/loss": history},
        )
        return TicketModel(queues=model.queues, weights=weights), result


class TicketFlavor:
    """Writes the JSON of a model into an MLflow model."""

    def save(self, model: TicketModel, folder: Path, metadata: Model) -> None:
        save_model(model, folder / "ticket")
        metadata.add_flavor("ticket", data="ticket")
        metadata.save(str(folder / "MLmodel"))

    def load(self, folder: str) -> TicketModel:
        return load_model(Path(folder) / "ticket")

    def weights(self, model: TicketModel) -> Mapping[str, Array]:
        return {"weights": model.weights}

    def outputs(self, model: TicketModel, probes: Sequence[str]) -> Array:
        return model.logits(probes)


def score_tickets(
    learner: TicketLearner,
    model: TicketModel,
    records: Sequence[Record],
    corpus: Sequence[Record],
    config: EvaluationConfig,
) -> Scores:
    best = model.logits([record["subject"] for record in records]).argmax(axis=1)
    correct = [
        float(model.queues[queue] == record["queue"])
        for queue, record in zip(best, records, strict=True)
    ]
    return scores_from({"recall_at_1": np.array(correct)}, "recall_at_1").identified(records)


def ticket_vectors(learner: TicketLearner, model: TicketModel, texts: Sequence[str]) -> Any:
    counts = token_counts(texts)
    norms = np.linalg.norm(counts, axis=1, keepdims=True)
    return (counts / np.maximum(norms, 1e-12)).astype(np.float32)


def ticket_learner(settings: Settings, shape: str, cache: ResultCache | None) -> TicketLearner:
    return TicketLearner()


@pytest.fixture
def ticket_family(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> ModelFamily:
    """A kind of sample, its shape and its family, registered for one test."""
    for registry in ("_KINDS", "_SHAPES", "_COLUMN_TYPES"):
        monkeypatch.setattr(shapes, registry, dict(getattr(shapes, registry)))
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))

    kind = SampleKind.register("ticket")
    register_shape(
        SampleShape(
            name="ticket",
            kind=kind,
            required=("subject", "queue"),
            types={"queue": ColumnType.LABEL},
            target=("queue",),
            reworded="subject",
        )
    )
    base = workplace / "untrained"
    save_model(TicketModel(queues=tuple(QUEUES), weights=np.zeros((2, FEATURES))), base)
    return register_family(
        ModelFamily(
            name="ticket",
            kind=kind,
            section=lambda settings: TicketSection(model=str(base)),
            catalog=Catalog(setting="ticket.model", entries={}, weight_files="weights.json"),
            flavor=TicketFlavor(),
            learner=ticket_learner,
            token_counter=lambda settings, path: TicketTokenCounter(max_length=32),
            row_vectors=ticket_vectors,
            score=score_tickets,
        )
    )


def write_tickets(path: Path) -> None:
    """Write 120 tickets whose queue follows from one word of the subject."""
    drawn = random.Random(0)
    with path.open("w") as file:
        for ticket_id in range(120):
            queue, words = drawn.choice(list(QUEUES.items()))
            filler = " ".join(drawn.choices(WORDS, k=6))
            subject = f"{filler} {drawn.choice(words.split())} {ticket_id}"
            file.write(json.dumps({"subject": subject, "queue": queue}) + "\n")


def test_a_family_from_outside_goes_from_a_file_to_root(
    ticket_family: ModelFamily,
    workplace: Path,
    make_settings: Callable[..., Settings],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_tickets(workplace / "tickets.jsonl")
    settings = make_settings(
        workplace, gate=GateConfig(), cross_validation=CrossValidationConfig(n_splits=2)
    )

    assert main(["ingest", "tickets.jsonl", "--session", "s1", "--kind", "ticket"]) == 0
    assert main(["sessions"]) == 0
    with DatabaseManager("sqlite:///tunetrail.db") as database:
        node = ModelTrainingNode(NodeConfig(settings=settings), database)
        results = node.execute({"session_id": "s1", "model_type": "ticket"})
        summary = database.session_summary("s1")

    # Ingested: the kind has a column of its own in the list of sessions.
    assert summary.samples == {"embedding": 0, "llm": 0, "ticket": 120}
    assert "ticket" in capsys.readouterr().out

    # Trained and evaluated: the untrained model puts every ticket into the same queue.
    steps = {step: result["ticket"] for step, result in results["results"]["steps"].items()}
    assert steps["validation"]["rows_out"] == 120
    assert len(steps["cross_validation"]["folds"]) == 2
    assert steps["comparison"]["before"] < 0.8 < 0.95 < steps["comparison"]["after"]

    # Registered: root is the trained model, as a registry and as a folder.
    root = client_of(settings.tracking.uri).get_model_version_by_alias("ticket", "root")
    exported = load_model(Path(settings.model_dir) / "ticket" / "root")
    files = mlflow.artifacts.download_artifacts("models:/ticket@root")
    registered = ticket_family.flavor.load(files)
    assert str(root.version) == steps["deployment"]["version"]
    assert np.array_equal(exported.weights, registered.weights) and exported.weights.any()


def test_a_family_from_outside_is_prepared_and_trained_again_from_root(
    ticket_family: ModelFamily, workplace: Path, make_settings: Callable[..., Settings]
) -> None:
    write_tickets(workplace / "tickets.jsonl")
    settings = make_settings(workplace, cross_validation=CrossValidationConfig(n_splits=0))
    assert main(["ingest", "tickets.jsonl", "--session", "s1", "--kind", "ticket"]) == 0

    with DatabaseManager("sqlite:///tunetrail.db") as database:
        node = ModelTrainingNode(NodeConfig(settings=settings), database)
        prepared = node.prepare({"session_id": "s1"}, workplace / "prepared")
        for _ in range(2):
            results = node.execute({"session_id": "s1", "model_type": "ticket"})

    assert set(prepared.frame("train")["shape"]) == {"ticket"}
    assert results["results"]["steps"]["training"]["ticket"]["started_from"] == "models:/ticket/1"
