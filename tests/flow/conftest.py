"""Rows of every shape, sessions made of them, and settings that train tiny models in a second or two."""

import dataclasses
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tunetrail.config import (
    AdapterConfig,
    CrossValidationConfig,
    EmbeddingConfig,
    EvaluationConfig,
    GateConfig,
    GenerationConfig,
    LanguageModelConfig,
    Settings,
    TrackingConfig,
    TrainingConfig,
)
from tunetrail.samples import SampleKind
from tunetrail.stores.database.manager import DatabaseManager

NOUNS = [
    "apple",
    "river",
    "engine",
    "window",
    "doctor",
    "garden",
    "planet",
    "violin",
    "hammer",
    "island",
    "mirror",
    "pencil",
    "rocket",
    "saddle",
    "tunnel",
    "walnut",
]
VERBS = [
    "opens",
    "paints",
    "counts",
    "follows",
    "repairs",
    "carries",
    "measures",
    "forgets",
    "borrows",
    "polishes",
    "divides",
    "remembers",
]
ROWS = 48


def _sentences(seed: int, count: int = ROWS) -> list[str]:
    drawn = random.Random(seed)
    return [
        f"the {drawn.choice(NOUNS)} {drawn.choice(VERBS)} {drawn.randint(2, 99)} {drawn.choice(NOUNS)}s "
        f"near the {drawn.choice(NOUNS)}"
        for _ in range(count)
    ]


def rows_of(shape: str) -> list[dict[str, Any]]:
    drawn, texts, further_texts = random.Random(0), _sentences(1), _sentences(2)
    if shape == "pair":
        return [{"anchor": text, "positive": text.upper()} for text in texts]
    if shape == "pair with some negatives":
        return [
            {
                "anchor": text,
                "positive": text.upper(),
                **({"negative": negative} if index % 2 else {}),
            }
            for index, (text, negative) in enumerate(zip(texts, further_texts, strict=True))
        ]
    if shape == "score":
        return [
            {"sentence1": a, "sentence2": b, "score": round(drawn.random(), 3)}
            for a, b in zip(texts, further_texts, strict=True)
        ]
    if shape == "label":
        return [{"text": text, "label": text.split()[2]} for text in texts + further_texts]
    if shape == "vector":
        return [
            {"text": text, "embedding": [drawn.gauss(0, 1) for _ in range(32)]} for text in texts
        ]
    if shape in ("text", "document"):
        return [{"text": text} for text in texts]
    if shape == "completion":
        return [{"input": text, "output": " ".join(reversed(text.split()))} for text in texts]
    if shape == "chat":
        return [
            {
                "messages": [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": " ".join(reversed(text.split()))},
                ]
            }
            for text in texts
        ]
    if shape == "preference":
        return [
            {
                "prompt": text,
                "chosen": text.upper(),
                "rejected": rejected,
                **({"weight": 2} if index % 2 else {}),
            }
            for index, (text, rejected) in enumerate(zip(texts, further_texts, strict=True))
        ]
    if shape == "verdict":
        return [
            {
                "prompt": text,
                "completion": text.upper() if index % 3 else rejected,
                "accepted": bool(index % 3),
            }
            for index, (text, rejected) in enumerate(zip(texts, further_texts, strict=True))
        ]
    assert shape == "mixed"
    return [
        row
        for part_shape in ("completion", "chat", "document")
        for row in rows_of(part_shape)[:ROWS:2]
    ]


@pytest.fixture(scope="session")
def make_rows() -> Callable[[str], list[dict[str, Any]]]:
    """Rows of a shape, always the same."""
    return rows_of


@pytest.fixture(scope="session")
def make_settings(tiny_embedding_model: str, tiny_language_model: str) -> Callable[..., Settings]:
    """Settings for a folder: tiny models, three steps, no folds, and a gate that lets everything through."""

    def make(folder: Path, **changes: Any) -> Settings:
        training = TrainingConfig(
            batch_size=16,
            learning_rate=1e-3,
            num_epochs=1,
            warmup_steps=0,
            max_steps=3,
            logging_steps=1,
        )
        settings = Settings(
            output_dir=str(folder / "training_output"),
            model_dir=str(folder / "models"),
            cross_validation=CrossValidationConfig(n_splits=0),
            embedding=EmbeddingConfig(model=tiny_embedding_model, max_length=64, training=training),
            llm=LanguageModelConfig(
                model=tiny_language_model,
                max_length=192,
                adapter=AdapterConfig(rank=2, alpha=4),
                training=training,
            ),
            evaluation=EvaluationConfig(
                bootstrap_samples=100, generation=GenerationConfig(max_new_tokens=8)
            ),
            # A process that loads the version again takes longer than the training.
            gate=GateConfig(
                require_interval=False,
                minimum_improvement=-10.0,
                minimum_test_clusters=1,
                fresh_process=False,
            ),
            tracking=TrackingConfig(
                uri=f"sqlite:///{folder}/mlflow.db", artifacts=str(folder / "mlartifacts")
            ),
        )
        return dataclasses.replace(settings, **changes)

    return make


@contextmanager
def ending_at(message: str, error: BaseException) -> Iterator[None]:
    """Let a signal, say, arrive in the very moment in which tunetrail logs this."""

    class Ending(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if message in record.getMessage():
                raise error

    logger, handler = logging.getLogger("tunetrail"), Ending()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def store_rows(
    manager: DatabaseManager, session_id: str, kind: SampleKind, rows: list[dict[str, Any]]
) -> None:
    report = manager.ingest(session_id, rows, kind)
    assert report.rejected == 0, manager.rejected_samples(session_id)


@pytest.fixture
def database(workplace: Path, migrated_database: Path) -> Iterator[DatabaseManager]:
    """An empty database in the workplace, where the command line looks for it."""
    shutil.copy(migrated_database, "tunetrail.db")
    with DatabaseManager("sqlite:///tunetrail.db") as manager:
        yield manager


@pytest.fixture
def session(database: DatabaseManager) -> str:
    """A session with pairs and completions."""
    store_rows(database, "s1", SampleKind.EMBEDDING, rows_of("pair"))
    store_rows(database, "s1", SampleKind.LLM, rows_of("completion"))
    return "s1"


@dataclass(frozen=True)
class Trained:
    """A finished training of both model types, shared and read only."""

    folder: Path
    settings: Settings
    database: DatabaseManager
    results: dict[str, Any]


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    _tracking_template: Path,
    make_settings: Callable[..., Settings],
) -> Trained:
    """The first training of a session with both model types, with two folds."""
    from tunetrail import ModelTrainingNode, NodeConfig

    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(_tracking_template, folder / "mlflow.db")
    settings = make_settings(folder, cross_validation=CrossValidationConfig(n_splits=2, budget=0.5))
    manager = DatabaseManager(f"sqlite:///{folder}/tunetrail.db")
    store_rows(manager, "s1", SampleKind.EMBEDDING, rows_of("pair"))
    store_rows(manager, "s1", SampleKind.LLM, rows_of("completion"))
    with pytest.MonkeyPatch.context() as environment:
        # Not the user's: what a test finds doesn't depend on earlier runs.
        environment.setenv("TUNETRAIL_CACHE", str(folder / ".cache"))
        results = ModelTrainingNode(NodeConfig(settings=settings), manager).execute(
            {"session_id": "s1", "model_type": "all"}
        )
    return Trained(folder, settings, manager, results)
