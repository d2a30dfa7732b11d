"""`tunetrail train`: compose the request with Hydra and give it to the node."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from tunetrail.cli.composed_run import run_composed
from tunetrail.cli.conf_groups import groups_help
from tunetrail.cli.key_help import asks_for_help
from tunetrail.cli.output import HELP as OUTPUT_HELP
from tunetrail.cli.output import show
from tunetrail.cli.requirement import HELP as REQUIREMENT_HELP
from tunetrail.cli.requirement import Requirement
from tunetrail.cli.terminal import say_loading
from tunetrail.config import TrainRequest
from tunetrail.config.training import OPTIMIZERS, PRECISIONS, SCHEDULES
from tunetrail.plain_values import plain_values

if TYPE_CHECKING:
    from tunetrail.stores.database.manager import DatabaseManager


def train(arguments: list[str]) -> int:
    """Run `tunetrail train` with Hydra's arguments."""
    if asks_for_help(arguments, help_text()):
        return 0

    requirement, arguments = Requirement.taken_from(arguments)
    run_composed(
        arguments,
        partial(train_one, requirement=requirement),
        finish_sweep=partial(finish_sweep, requirement=requirement),
    )
    return requirement.exit_code()


def help_text() -> str:
    """Return what `tunetrail train --help` prints."""
    usage = [
        "usage: tunetrail train session_id=ID|[ID,ID] [model_type=embedding|llm|all]",
        "                       [GROUP=OPTION ...] [KEY=VALUE ...] [-m]",
        "",
        "Trains on a session's samples, compares the new model with `root` (the model in use),",
        "registers it, and makes it the new root if it is measurably better.",
        "",
        "examples:",
        "  tunetrail train session_id=s1 model_type=embedding embedding=minilm",
        "  tunetrail train session_id=s1 model_type=llm llm.training.learning_rate=3e-5",
        "  tunetrail train session_id=s2 model_type=embedding replay=0.2",
        "  tunetrail train session_id=[s1,s2] session_weights=[1,2] model_type=embedding",
        "  tunetrail train session_id=s1 +experiments=quick optimizer=adafactor schedule=cosine",
        "  tunetrail train -m session_id=s1 model_type=llm llm.training.learning_rate=1e-5,3e-5",
        "",
    ]

    keys = [
        "keys of embedding.training and llm.training (`--help KEY` explains them and all others):",
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
        "  --help KEY  explain a key, a section or a group: --help embedding, --help optimizer",
        "  --cfg job   print the composed configuration instead of training",
        "  -m          sweep: train each combination of comma-separated values, and evaluate only",
        "              the best on the test rows (docs/sweeps.md)",
        *REQUIREMENT_HELP,
        *OUTPUT_HELP,
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


def train_one(
    request: TrainRequest, overrides: Sequence[str], *, requirement: Requirement | None = None
) -> Mapping[str, Any]:
    """Train as requested, print the results and return them; a job of a sweep prints none."""
    say_loading("train")
    # Imported late: help and mistakes in the arguments don't wait for torch.
    from tunetrail.cli.results_table import show_results
    from tunetrail.learning.nodes.node import check_nodes
    from tunetrail.node import ModelTrainingNode, NodeConfig
    from tunetrail.pipeline.ranks import follows_first_node
    from tunetrail.pipeline.run_names import typed_changes
    from tunetrail.stores.database.manager import DatabaseManager

    if request.sweep.run_id is not None:
        from tunetrail.sweeps.job import run_job

        with DatabaseManager(request.database.url) as manager:
            job = run_job(request, request.session_id, request.model_type, manager)
        return {"values": job.values}

    # Started on several nodes with num_nodes=1, each would train the whole model.
    check_nodes(request.trainer)
    # Database, MLflow and registry belong to node 0.
    if request.trainer.num_nodes > 1 and follows_first_node(request.trainer):
        return {}

    with DatabaseManager(request.database.url) as manager:
        changes = typed_changes(overrides)
        node = ModelTrainingNode(NodeConfig(settings=request), manager, changes=changes)
        results = node.execute({"session_id": request.session_id, "model_type": request.model_type})

    show_results(results, request.tracking.uri)
    if requirement is not None:
        requirement.check(results)
    return results


def finish_sweep(
    request: TrainRequest,
    manager: "DatabaseManager",
    sweep_run_id: str,
    *,
    requirement: Requirement | None = None,
) -> None:
    """Let the best job of a sweep go on, and print what the sweep came to."""
    from tunetrail.cli.sweep_table import print_sweep
    from tunetrail.sweeps.winner import decide_sweep

    decision = decide_sweep(request, manager, sweep_run_id)
    show(lambda: plain_values(decision), lambda: print_sweep(decision, request.tracking.uri))
    if requirement is not None:
        requirement.check(decision.results)
