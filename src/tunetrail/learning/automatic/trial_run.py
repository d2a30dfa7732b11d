"""Run a few passes through Lightning's Trainer, as the training to come: its device, its precision.

Whatever a trial does to a module stays with it, so it gets a module of its own.
"""

import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities.seed import isolate_rng

from tunetrail.config import TrainingConfig
from tunetrail.learning.devices import CPU
from tunetrail.learning.training.console import silence_lightning
from tunetrail.learning.training.memory_settings import enable_gradient_checkpointing
from tunetrail.learning.training.micro_batches import MicroBatchData
from tunetrail.learning.training.module import TrainedModule
from tunetrail.learning.training.precision import resolve_precision, tf32_products
from tunetrail.learning.training.trainer import build_trainer


def run_trial(
    module: TrainedModule,
    data: MicroBatchData,
    training: TrainingConfig,
    callback: Callback,
    max_steps: int,
    device: torch.device = CPU,
) -> None:
    """Run a short training without validation; leaves the random generators as they were.

    Args:
        module: The module; the training to come needs another one.
        data: Its batches.
        training: Precision and memory of the training to come; nothing is compiled.
        callback: Does what the trial is for.
        max_steps: Optimizer steps at most.
        device: The device that it runs on.
    """
    silence_lightning()
    if training.memory.gradient_checkpointing:
        enable_gradient_checkpointing(module.model)

    precision = resolve_precision(training.precision, training.use_mixed_precision, device.type)
    with isolate_rng(), tf32_products(precision, device.type):
        trainer = build_trainer(
            training,
            data,
            precision,
            # `max_steps` ends the trial.
            max_epochs=-1,
            max_steps=max_steps,
            accelerator=device.type,
            devices=1,
            limit_val_batches=0,
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
        )

        # Models are loaded in evaluation mode, in which dropout is off.
        module.train()
        trainer.fit(module, datamodule=data)
