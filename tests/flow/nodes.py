"""Arguments of a training on two nodes."""

from pathlib import Path

STEPS = 60
ONE_THREAD = {"OMP_THREAD_LIMIT": "1"}
"""To set in the environment: each node would take all cores of the machine that they share."""


def training_arguments(workplace: Path, model: str) -> list[str]:
    """Return the arguments of a training of 60 steps on two nodes."""
    training = {
        "max_steps": STEPS,
        "num_epochs": 100,
        "batch_size": 16,
        "warmup_steps": 0,
        "logging_steps": 1,
        "early_stopping_patience": 0,
        "checkpoints.every_steps": 5,
    }
    return [
        "model_type=embedding",
        f"embedding.model={model}",
        *store_arguments(workplace),
        f"preparation.cache_dir={workplace}/.cache",
        *("trainer=cpu", "trainer.num_nodes=2", "trainer.node_timeout_minutes=5"),
        *("cross_validation=off", "gate=point", "gate.minimum_improvement=-10"),
        "gate.fresh_process=false",
        *("embedding.start_from=base", "evaluation.bootstrap_samples=100"),
        *(f"embedding.training.{key}={value}" for key, value in training.items()),
    ]


def store_arguments(workplace: Path) -> list[str]:
    """Return the arguments that name the stores of a workplace."""
    return [
        f"database.url=sqlite:///{workplace}/tunetrail.db",
        f"tracking.uri=sqlite:///{workplace}/mlflow.db",
    ]
