"""`tunetrail train`: compose the request with Hydra and give it to the node."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tunetrail.cli.composition import TrainRequest, groups_help, run_composed
from tunetrail.config import SWEEP_RUN_VARIABLE, SWEPT_KEYS_VARIABLE
from tunetrail.config.training import OPTIMIZERS, PRECISIONS, SCHEDULES
from tunetrail.errors import ConfigError


def train(arguments: list[str]) -> int:
    """Run `tunetrail train` with Hydra's arguments."""
    if {"-h", "--help"} & set(arguments):
        print(help_text())
        return 0

    try:
        run_composed(arguments, train_one)
    finally:
        _end_sweep_that_stopped()
    return 0


def help_text() -> str:
    """Return what `tunetrail train --help` prints."""
    usage = [
        "usage: tunetrail train session_id=ID [model_type=embedding|llm|all]",
        "                       [GROUP=OPTION ...] [KEY=VALUE ...] [-m]",
        "",
        "Trains on a session's samples, compares the new model with `root` (the model in use),",
        "registers it, and makes it the new root if it is measurably better.",
        "",
        "examples:",
        "  tunetrail train session_id=s1 model_type=embedding embedding=minilm",
        "  tunetrail train session_id=s1 model_type=llm llm.training.learning_rate=3e-5",
        "  tunetrail train session_id=s1 +experiments=quick optimizer=adafactor schedule=cosine",
        "  tunetrail train -m session_id=s1 model_type=llm llm.training.learning_rate=1e-5,3e-5",
        "",
    ]

    keys = [
        "keys of embedding.training and llm.training (docs/configuration.md has all):",
        *_training_help(),
        "",
        "optimizer, schedule, trainer and callbacks set keys of both trainings; keys override:",
        "  optimizer=sgd llm.training.optimizer.name=adamw 'callbacks=[ema,frequent_checkpoints]'",
        "callbacks and logger also add Lightning's own, more of them by name (docs/training.md):",
        "  callbacks=device_stats logger=csv +trainer.callbacks.NAME._target_=CLASS",
        "",
    ]

    options = [
        "",
        "  --cfg job   print the composed configuration instead of training",
        "  -m          train once for each combination of comma-separated values",
        "  --debug     show tracebacks",
    ]
    return "\n".join([*usage, *keys, *groups_help(), *options])


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


def train_one(request: TrainRequest, overrides: Sequence[str]) -> Mapping[str, Any]:
    """Train as requested, print the results and return them."""
    # Imported late: help and mistakes in the arguments don't wait for torch.
    from tunetrail.cli.results_table import print_results
    from tunetrail.learning.nodes import check_nodes
    from tunetrail.node import ModelTrainingNode, NodeConfig
    from tunetrail.pipeline.ranks import follows_first_node
    from tunetrail.stores.database import DatabaseManager

    # Started on several nodes with num_nodes=1, each would train the whole model.
    check_nodes(request.trainer)
    if request.trainer.num_nodes > 1:
        if SWEEP_RUN_VARIABLE in os.environ:
            raise ConfigError(
                f"trainer.num_nodes must be 1 in a sweep, got {request.trainer.num_nodes}. "
                "Start the trainings one by one."
            )
        # Database, MLflow and registry belong to node 0.
        if follows_first_node(request.trainer):
            return {}

    # A job of a sweep is named after what distinguishes it from the other jobs.
    swept = os.environ.get(SWEPT_KEYS_VARIABLE, "").split(",")
    choices = [override for override in overrides if override.partition("=")[0] in swept]

    with DatabaseManager(request.database.url) as manager:
        node = ModelTrainingNode(
            NodeConfig(settings=request),
            manager,
            parent_run_id=os.environ.get(SWEEP_RUN_VARIABLE),
            run_name=", ".join(choices) or None,
        )
        results = node.execute({"session_id": request.session_id, "model_type": request.model_type})

    print_results(results, request.tracking.uri, node.report)
    return results


def _end_sweep_that_stopped() -> None:
    """End the run of a sweep that an exception stopped: Hydra tells only of sweeps that succeed."""
    error = sys.exc_info()[1]
    if SWEEP_RUN_VARIABLE in os.environ and error is not None:
        from tunetrail.sweeps.sweep_run import end_sweep

        end_sweep("failed" if isinstance(error, Exception) else "interrupted", str(error))
