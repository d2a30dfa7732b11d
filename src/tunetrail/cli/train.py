"""`tunetrail train`: the node does the work on the request that Hydra composes."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tunetrail.cli.composition import TrainRequest, groups_help, run_composed
from tunetrail.config import SWEEP_RUN_VARIABLE, SWEPT_KEYS_VARIABLE
from tunetrail.config.training import OPTIMIZERS, PRECISIONS, SCHEDULES


def train(arguments: list[str]) -> int:
    """Run `tunetrail train` with Hydra's arguments; `-m` sweeps over every combination of comma-separated values."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0
    try:
        run_composed(arguments, _train_one)
    finally:
        _end_sweep_that_stopped()
    return 0


def help_text() -> str:
    """Return what `tunetrail train --help` prints: usage, the groups of conf/ and their options, the experiments."""
    lines = [
        "usage: tunetrail train session_id=ID [model_type=embedding|llm|all] [GROUP=OPTION ...] [KEY=VALUE ...] [-m]",
        "",
        "Trains on a session, compares the result with root, registers it, moves root where it is measurably better.",
        "",
        "examples:",
        "  tunetrail train session_id=s1 model_type=embedding embedding=minilm embedding.training.learning_rate=3e-5",
        "  tunetrail train session_id=s1 +experiments=quick optimizer=adafactor schedule=cosine",
        "  tunetrail train -m session_id=s1 model_type=embedding embedding.training.learning_rate=1e-5,3e-5",
        "",
        "keys of the training (embedding.training.KEY, llm.training.KEY; --cfg job prints all with their values,",
        "docs/configuration.md explains them):",
        *_training_help(),
        "",
        "optimizer, schedule, trainer and callbacks set keys of both trainings; KEY=VALUE has the last word:",
        "  optimizer=sgd llm.training.optimizer.name=adamw 'callbacks=[ema,frequent_checkpoints]'",
        "",
        *groups_help(),
        "",
        "--cfg job prints the composed configuration; -m trains once per combination; --debug shows tracebacks.",
    ]
    return "\n".join(lines)


def _training_help() -> list[str]:
    choices = {
        "batch_size, learning_rate": "a number, or auto: found before the training",
        "schedule": ", ".join(SCHEDULES),
        "precision": ", ".join(PRECISIONS),
        "optimizer.name": ", ".join(OPTIMIZERS),
        "averaging.kind": "none, ema, swa",
        "batches.accumulate": "batches per step",
        "checkpoints.every_steps": "steps between checkpoints to resume from; 0: each validation",
        "memory.gradient_checkpointing": "true: less memory, more time",
    }
    return [f"  {key:29} {choice}" for key, choice in choices.items()]


def _train_one(request: TrainRequest, overrides: Sequence[str]) -> Mapping[str, Any]:
    from tunetrail.cli.report import print_results
    from tunetrail.node import ModelTrainingNode, NodeConfig
    from tunetrail.stores.database import DatabaseManager

    swept = os.environ.get(SWEPT_KEYS_VARIABLE, "").split(",")
    choices = [each for each in overrides if each.partition("=")[0] in swept]
    with DatabaseManager(request.database.url) as manager:
        node = ModelTrainingNode(
            NodeConfig(settings=request),
            manager,
            parent_run_id=os.environ.get(SWEEP_RUN_VARIABLE),
            run_name=", ".join(choices) or None,
        )
        results = node.execute({"session_id": request.session_id, "model_type": request.model_type})
    print_results(results, request.tracking.uri)
    return results


def _end_sweep_that_stopped() -> None:
    """End the sweep's run where a failed or stopped job kept Hydra from saying that the multirun is over."""
    if SWEEP_RUN_VARIABLE in os.environ and sys.exc_info()[0] is not None:
        from tunetrail.sweeps.sweep_run import end_sweep

        end_sweep(
            "failed" if isinstance(sys.exc_info()[1], Exception) else "interrupted",
            str(sys.exc_info()[1]),
        )
