"""A model family: a linear classifier that puts tickets into queues, in NumPy.

It has a kind of sample of its own, and goes the whole way: ingested, checked, split, trained,
compared with root, registered.
"""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mlflow.models import Model

from tunetrail.cache import ResultCache
from tunetrail.config import EvaluationConfig, Settings, TrainingConfig
from tunetrail.config.checks import at_least, setting
from tunetrail.evaluation.scores import Scores, scores_from
from tunetrail.learning.automatic.auto_values import AutoValues
from tunetrail.learning.fit_result import FitResult
from tunetrail.learning.models.catalog import Catalog, CatalogEntry
from tunetrail.learning.training_plan import TrainingPlan
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.samples import ColumnType, SampleKind, SampleShape, register_shape

FEATURES = 1024
Array = npt.NDArray[np.float64]
Record = Mapping[str, Any]


@dataclass(kw_only=True)
class TicketSection:
    """The family's settings: `families.ticket.KEY`."""

    model: str = "untrained"
    """Folder of the base model, or `untrained`."""

    max_length: int = setting(32, at_least(1, " words"))
    """Words of a subject that the model reads."""

    start_from: str = "root"
    """`root` or `base`."""

    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=8, learning_rate=0.5, num_epochs=30)
    )
    """Hyperparameters of the training."""


@dataclass(frozen=True, kw_only=True)
class TicketModel:
    """A weight for each queue and each hashed word, [queues, features]."""

    queues: tuple[str, ...]
    weights: Array

    def logits(self, subjects: Sequence[str]) -> Array:
        """Return [subjects, queues]."""
        logits: Array = word_counts(subjects) @ self.weights.T
        return logits


def word_counts(subjects: Sequence[str]) -> Array:
    """Return how often each hashed word occurs in each subject, [subjects, features]."""
    counts = np.zeros((len(subjects), FEATURES))
    for row, subject in enumerate(subjects):
        for word in subject.lower().split():
            counts[row, zlib.crc32(word.encode()) % FEATURES] += 1
    return counts


def save_model(model: TicketModel, folder: Path) -> None:
    """Write a model as two JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"queues": model.queues, "weights": model.weights.tolist()}
    (folder / "config.json").write_text('{"model_type": "ticket"}')
    (folder / "weights.json").write_text(json.dumps(content))


def load_model(folder: str | Path) -> TicketModel:
    """Read a model; one without weights is untrained."""
    content = json.loads((Path(folder) / "weights.json").read_text())
    queues = tuple(content["queues"])
    weights = np.array(content["weights"] or np.zeros((len(queues), FEATURES)))
    return TicketModel(queues=queues, weights=weights)


@dataclass(frozen=True, kw_only=True)
class TicketTokenCounter:
    """Counts the words of a subject."""

    max_length: int
    identity: str = "ticket:words"

    def of_texts(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Return [texts]."""
        return np.array([len(text.split()) for text in texts], dtype=np.int64)

    def of_records(self, records: Sequence[dict[str, Any]]) -> npt.NDArray[np.int64]:
        """Return [records]."""
        return self.of_texts([record["subject"] for record in records])


class TicketLearner:
    """Trains by gradient descent on the cross-entropy."""

    def check(
        self, path: str, records: Sequence[Record], load: Callable[[str], TicketModel]
    ) -> None:
        """Raise `ValueError` for a queue that the model doesn't know."""
        unknown = {record["queue"] for record in records} - set(load(path).queues)
        if unknown:
            raise ValueError(f"queue must be one of the model's, got {sorted(unknown)}")

    def load(self, path: str) -> TicketModel:
        """Return the model of a folder."""
        return load_model(path)

    def save(self, model: TicketModel, folder: Path) -> None:
        """Write a model into a folder."""
        save_model(model, folder)

    def find_auto_values(
        self, path: str, train: Sequence[Record], training: TrainingConfig, ranks: int
    ) -> AutoValues:
        """Return nothing: there is no value `auto`."""
        return AutoValues()

    def train(
        self,
        path: str,
        train: Sequence[Record],
        validation: Sequence[Record],
        training: TrainingConfig,
        plan: TrainingPlan,
    ) -> tuple[TicketModel, FitResult]:
        """Return the trained model, and how it went."""
        model = self.load(path)
        weights = model.weights.copy()
        counts = word_counts([record["subject"] for record in train])
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
        """Write the model and MLflow's description of it."""
        save_model(model, folder / "ticket")
        metadata.add_flavor("ticket", data="ticket")
        metadata.save(str(folder / "MLmodel"))

    def load(self, folder: str) -> TicketModel:
        """Return the model of a folder that `save` wrote."""
        return load_model(Path(folder) / "ticket")

    def weights(self, model: TicketModel) -> Mapping[str, Array]:
        """Return the weights by name."""
        return {"weights": model.weights}

    def outputs(self, model: TicketModel, probes: Sequence[str]) -> Array:
        """Return what the model computes of texts."""
        return model.logits(probes)


def score(
    learner: TicketLearner,
    model: TicketModel,
    records: Sequence[Record],
    corpus: Sequence[Record],
    config: EvaluationConfig,
) -> Scores:
    """Return the share of tickets whose queue comes first."""
    best = model.logits([record["subject"] for record in records]).argmax(axis=1)
    predicted = np.array(model.queues)[best]
    is_right = predicted == [record["queue"] for record in records]
    values = {"recall_at_1": is_right.astype(np.float64)}
    return scores_from(values, "recall_at_1").identified(records)


def row_vectors(learner: TicketLearner, model: TicketModel, texts: Sequence[str]) -> Any:
    """Return unit vectors of texts, [texts, features]."""
    counts = word_counts(texts)
    norms = np.linalg.norm(counts, axis=1, keepdims=True)
    return (counts / np.maximum(norms, 1e-12)).astype(np.float32)


def section(settings: Settings) -> TicketSection:
    """Return the family's settings."""
    return settings.family_section("ticket", TicketSection)


def learner(settings: Settings, shape: str, cache: ResultCache | None) -> TicketLearner:
    """Return what loads, trains and saves the models."""
    return TicketLearner()


def token_counter(settings: Settings, path: str) -> TicketTokenCounter:
    """Return what counts tokens as the model at `path` does."""
    return TicketTokenCounter(max_length=section(settings).max_length)


# Registered when the module is imported, which the first use of the kind or the family does.
KIND = SampleKind.register("ticket")
register_shape(
    SampleShape(
        name="ticket",
        kind=KIND,
        required=("subject", "queue"),
        types={"queue": ColumnType.LABEL},
        target=("queue",),
        reworded="subject",
    )
)

TICKET = ModelFamily(
    name="ticket",
    kind=KIND,
    section=section,
    options_class=TicketSection,
    catalog=Catalog(
        setting="families.ticket.model",
        entries={
            "untrained": CatalogEntry(
                hub_id="example/ticket", package="tunetrail_example", packaged_path="untrained"
            )
        },
        weight_files="weights.json",
    ),
    flavor=TicketFlavor(),
    learner=learner,
    token_counter=token_counter,
    row_vectors=row_vectors,
    score=score,
)
