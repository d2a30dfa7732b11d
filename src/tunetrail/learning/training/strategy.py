"""Tell Lightning's Trainer how the ranks of a training share the work, and who has started them."""

import os
from datetime import timedelta

from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    ClusterEnvironment,
    LightningEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy, Strategy

from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import AUTO
from tunetrail.learning.training.sharding import FSDP, ShardedStrategy


def build_strategy(trainer: TrainerConfig) -> Strategy | str:
    """Return the Trainer's `strategy`."""
    # A single rank has nothing to share.
    if _started_ranks() == 1:
        return AUTO

    timeout = timedelta(minutes=trainer.exchange_timeout_minutes)
    return ShardedStrategy(timeout) if trainer.strategy == FSDP else DDPStrategy(timeout=timeout)


def cluster_environment() -> ClusterEnvironment:
    """Return the Trainer's cluster environment.

    Left to itself, Lightning would take any process within an allocation of SLURM for one of its
    tasks, and refuse an allocation of `--ntasks=8`.
    """
    return TorchElasticEnvironment() if _started_ranks() > 1 else LightningEnvironment()


def _started_ranks() -> int:
    """Return the number of ranks; whoever starts several tells each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))
