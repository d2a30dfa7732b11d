"""Build Lightning's Trainer: what every training and trial needs, and how ranks share the work."""

import os
from datetime import timedelta
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.plugins.environments import (  # type: ignore[attr-defined]
    ClusterEnvironment,
    LightningEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy, Strategy

from tunetrail.config import TrainingConfig
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import AUTO
from tunetrail.learning.training.micro_batches import MicroBatchData
from tunetrail.learning.training.sharding import FSDP, ShardedStrategy


def build_trainer(
    training: TrainingConfig, data: MicroBatchData, precision: str, **options: Any
) -> Trainer:
    """Return a Trainer that accumulates, clips and computes as a training is configured.

    Args:
        training: The settings.
        data: The micro-batches, which may be cut into parts.
        precision: Lightning's name of the precision.
        options: Further arguments of the Trainer.
    """
    return Trainer(
        plugins=_cluster_environment(),
        # The sampler shares the rows out over the ranks itself.
        use_distributed_sampler=False,
        precision=precision,  # type: ignore[arg-type]
        # Lightning counts the parts of a micro-batch, too.
        accumulate_grad_batches=training.batches.accumulate * data.parts,
        gradient_clip_val=training.max_grad_norm or None,
        enable_model_summary=False,
        **options,
    )


def build_strategy(trainer: TrainerConfig) -> Strategy | str:
    """Return the Trainer's `strategy`."""
    # A single rank has nothing to share.
    if _started_ranks() == 1:
        return AUTO

    timeout = timedelta(minutes=trainer.exchange_timeout_minutes)
    return ShardedStrategy(timeout) if trainer.strategy == FSDP else DDPStrategy(timeout=timeout)


def _cluster_environment() -> ClusterEnvironment:
    """Return the Trainer's cluster environment.

    Left to itself, Lightning would take any process within an allocation of SLURM for one of its
    tasks, and refuse an allocation of `--ntasks=8`.
    """
    return TorchElasticEnvironment() if _started_ranks() > 1 else LightningEnvironment()


def _started_ranks() -> int:
    """Return the number of ranks; whoever starts several tells each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))
