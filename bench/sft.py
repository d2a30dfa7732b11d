"""Full fine-tuning of SmolLM2 on completions, against TRL's SFTTrainer, padded and packed."""

from bench.engine.comparing import compared
from bench.engine.figures import Targets
from bench.engine.rows import training_rows
from bench.engine.tasks import Task
from bench.fresh import Arm, require
from bench.results import Options, Result
from tunetrail.learning.models.catalog import LANGUAGE_MODELS, resolve_model

PADDED, PACKED, CHECKPOINTED = "TRL padded", "TRL packed", "TRL padded, gradient checkpointing"
TRL_FUNCTION = "bench.engine.language:train_with_trl"
ROWS, HELD_OUT, BATCH_SIZE = 32, 16, 4
MAX_LENGTH = 512


def run(options: Options) -> list[Result]:
    """Train all weights by each side. TRL's own default, gradient checkpointing, is measured once in addition."""
    require("datasets", "accelerate", "trl")
    rows = training_rows("completion", options, rows=ROWS, batch_size=BATCH_SIZE, held_out=HELD_OUT)
    peers = [
        Arm(name=PADDED, function=TRL_FUNCTION),
        Arm(name=PACKED, function=TRL_FUNCTION, arguments={"packing": True}),
        Arm(
            name=CHECKPOINTED,
            function=TRL_FUNCTION,
            arguments={"checkpointing": True},
            most_rounds=1,
        ),
    ]
    return [
        compared(
            "sft",
            language_task(adapter="none", learning_rate=2e-5),
            rows,
            "bench.engine.language",
            peers,
            Targets(ratio={PADDED: 3.0, PACKED: 1.4}, mfu=0.50, padding=0.03, memory={PADDED: 0.6}),
            speed="tokens_per_second",
            unit="tokens/s",
            rounds=options.rounds,
        )
    ]


def language_task(*, adapter: str, learning_rate: float) -> Task:
    """Return the task of fine-tuning SmolLM2, its files yet to be filled in."""
    return Task(
        model=resolve_model("smollm2-135m", LANGUAGE_MODELS).path,
        train="",
        held_out="",
        shape="completion",
        rows=0,
        batch_size=BATCH_SIZE,
        epochs=2,
        max_length=MAX_LENGTH,
        learning_rate=learning_rate,
        adapter=adapter,
    )
