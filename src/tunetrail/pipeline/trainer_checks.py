"""Checks of a training's devices, callbacks and loggers, before anything is trained."""

from collections.abc import Sequence

from tunetrail.config import Settings
from tunetrail.config.checks import check
from tunetrail.learning.devices import check_batch
from tunetrail.learning.named_classes.callbacks import build_callbacks, check_early_stopping
from tunetrail.learning.named_classes.loggers import check_loggers
from tunetrail.learning.training.sharding import FSDP
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.ranks import rank_count


def check_devices(settings: Settings, families: Sequence[ModelFamily]) -> None:
    """Raise `ConfigError` if a training can't run on its devices.

    There are too few, a batch has too few rows, or the weights can't be sharded.
    """
    devices = rank_count(settings.trainer)
    for family in families:
        check_batch(family.section(settings).training, devices, family.name)
        if settings.trainer.strategy == FSDP:
            check_strategy(settings, family)


def check_strategy(settings: Settings, family: ModelFamily) -> None:
    """Raise `ConfigError` if the weights of a family's models can't be sharded."""
    check(
        family.check_sharding is not None,
        "trainer.strategy",
        f"auto or ddp for models of the type {family.name}",
        FSDP,
        "Set trainer=ddp, or model_type=llm: only language models are sharded.",
    )
    assert family.check_sharding is not None
    family.check_sharding(settings)


def check_callbacks(settings: Settings, families: Sequence[ModelFamily]) -> None:
    """Raise `ConfigError` for a callback or logger that isn't allowed, is wrong or would clash."""
    callbacks = build_callbacks(settings.trainer.callbacks)
    for family in families:
        training, objective = family.section(settings).training, family.objective(settings)
        check_early_stopping(callbacks, training, family.name, objective)
    check_loggers(settings.trainer.logger)
