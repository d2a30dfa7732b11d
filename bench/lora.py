"""LoRA of all linear layers of SmolLM2 on completions, against TRL's SFTTrainer."""

from bench.engine.comparing import compared
from bench.engine.figures import Targets
from bench.engine.rows import training_rows
from bench.fresh import Arm, require
from bench.results import Options, Result
from bench.sft import BATCH_SIZE, HELD_OUT, PADDED, ROWS, TRL_FUNCTION, language_task


def run(options: Options) -> list[Result]:
    """Train adapters of rank 16 by both sides."""
    require("datasets", "accelerate", "trl")
    rows = training_rows("completion", options, rows=ROWS, batch_size=BATCH_SIZE, held_out=HELD_OUT)
    return [
        compared(
            "lora",
            language_task(adapter="lora", learning_rate=2e-4),
            rows,
            "bench.engine.language",
            [Arm(name=PADDED, function=TRL_FUNCTION)],
            Targets(ratio={PADDED: 3.3}, padding=0.03, memory={PADDED: 0.6}),
            speed="tokens_per_second",
            unit="tokens/s",
            rounds=options.rounds,
        )
    ]
