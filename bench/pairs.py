"""Pairs with the multiple-negatives ranking loss at two maximum lengths, against SentenceTransformerTrainer."""

from collections.abc import Mapping

from bench.engine.comparing import compared
from bench.engine.figures import Targets
from bench.engine.rows import training_rows
from bench.engine.tasks import Task
from bench.fresh import Arm, require
from bench.results import Options, Result
from bench.stsb import PEER, PEER_FUNCTION
from tunetrail.learning.models.catalog import EMBEDDING_MODELS, resolve_model

_ROWS, _HELD_OUT, _BATCH_SIZE = 320, 128, 32
_RATIOS = {128: 1.5, 256: 1.7}
"""Least speed against the peer, by maximum length."""


def run(options: Options) -> list[Result]:
    """Train MiniLM on pairs by both sides."""
    return run_on("pair", "pairs", options, _RATIOS)


def run_on(made: str, name: str, options: Options, ratios: Mapping[int, float]) -> list[Result]:
    """Train MiniLM on pairs by both sides, at each maximum length.

    Args:
        made: What the pairs are made of where the options name no file, a key of `rows.MADE`.
        name: The results' name.
        options: As for every benchmark.
        ratios: Least speed against the peer, by maximum length.
    """
    require("datasets", "accelerate")
    rows = training_rows(
        "pair", options, rows=_ROWS, batch_size=_BATCH_SIZE, held_out=_HELD_OUT, made=made
    )
    results = []
    for max_length, ratio in ratios.items():
        task = Task(
            model=resolve_model("minilm", EMBEDDING_MODELS).path,
            train="",
            held_out="",
            shape="pair",
            loss="multiple_negatives_ranking",
            rows=0,
            batch_size=_BATCH_SIZE,
            epochs=2,
            max_length=max_length,
            learning_rate=2e-5,
        )
        results.append(
            compared(
                f"{name} max {max_length}",
                task,
                rows,
                "bench.engine.embedding",
                [Arm(name=PEER, function=PEER_FUNCTION)],
                Targets(ratio={PEER: ratio}, mfu=0.55, padding=0.03),
                speed="rows_per_second",
                unit="pairs/s",
                rounds=options.rounds,
            )
        )
    return results
