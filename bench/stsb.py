"""Scored sentence pairs with CoSENT, against SentenceTransformerTrainer."""

from bench.engine.comparing import compared
from bench.engine.figures import Targets
from bench.engine.rows import training_rows
from bench.engine.tasks import Task
from bench.fresh import Arm, require
from bench.results import Options, Result
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model

PEER = "sentence-transformers"
PEER_FUNCTION = "bench.engine.embedding:train_with_sentence_transformers"
_ROWS, _HELD_OUT, _BATCH_SIZE = 640, 256, 32


def run(options: Options) -> list[Result]:
    """Train MiniLM on scored pairs by both sides: STS-B where `data` names it, made ones otherwise."""
    require("datasets", "accelerate")
    rows = training_rows("score", options, rows=_ROWS, batch_size=_BATCH_SIZE, held_out=_HELD_OUT)
    task = Task(
        model=resolve_model("minilm", EMBEDDING_MODELS).path,
        train="",
        held_out="",
        shape="score",
        loss="cosent",
        rows=0,
        batch_size=_BATCH_SIZE,
        epochs=2,
        max_length=128,
        learning_rate=2e-5,
    )
    return [
        compared(
            "stsb",
            task,
            rows,
            "bench.engine.embedding",
            [Arm(name=PEER, function=PEER_FUNCTION)],
            Targets(ratio={PEER: 2.3}, mfu=0.50, padding=0.03),
            speed="rows_per_second",
            unit="pairs/s",
            rounds=options.rounds,
        )
    ]
