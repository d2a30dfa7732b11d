"""Settings of the devices that a training runs on, and of Lightning's callbacks and loggers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tunetrail.config.checks import (
    POSITIVE,
    at_least,
    check,
    check_identifier,
    check_settings,
    one_of,
    setting,
)
from tunetrail.config.training import AUTO_OR_COUNT

TARGET = "_target_"
"""The key that names the class of a callback or logger, as in Hydra's `instantiate`."""


@dataclass(kw_only=True)
class TrainerConfig:
    """Which devices train a model, in the words of Lightning's Trainer."""

    accelerator: str = setting("auto", one_of("auto", "cpu", "gpu"))
    """Kind of device; `auto` is a GPU if there is one, otherwise the CPU."""

    devices: int | str = setting(1, AUTO_OR_COUNT)
    """Number of devices, each with a process of its own; `auto` takes all GPUs, and one
    process on a CPU. Batches, steps and gradients don't depend on it: each device computes a
    share of every batch."""

    num_nodes: int = setting(1, at_least(1))
    """Number of machines that train together, each with `devices`. Above 1, `torchrun` or SLURM's
    `srun` starts the same command once on each; all must see `output_dir`, the models and
    `cache_dir` under the same paths."""

    node_timeout_minutes: float = setting(10.0, POSITIVE)
    """How long node 0 waits for the other nodes to come, and they for node 0."""

    node_silence_seconds: float = setting(60.0, POSITIVE)
    """How long a node may give no sign of life while it trains. After that it is taken for lost,
    with its machine or its network: all ranks are stopped, and an error names the node."""

    exchange_timeout_minutes: float = setting(30.0, POSITIVE)
    """How long a rank waits for the others in an exchange, such as that of the gradients. After
    that the training ends, and an error names the rank that took no part in it."""

    strategy: str = setting("auto", one_of("auto", "ddp", "fsdp"))
    """How several devices train one model. `ddp` keeps a copy of the model on each and adds
    the gradients up; `auto` is `ddp` if there are several devices. `fsdp` shards a language
    model: each device keeps a slice of its weights, gradients and optimizer state."""

    launcher: str = setting("local", one_of("local", "ray"))
    """Who starts the processes of the devices: `local` this machine, `ray` a Ray cluster, through
    Ray Train's TorchTrainer (`pip install 'tunetrail[ray]'`; `RAY_ADDRESS` names the cluster,
    otherwise one is started here). `devices` then counts devices of the cluster, whose machines
    must all see `output_dir`, the models and `cache_dir` under the same paths."""

    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further Lightning callbacks, each under a name of your choice: `_target_` names the
    class, the other keys are its arguments, as in
    `trainer.callbacks.device_stats._target_=DeviceStatsMonitor`. An unknown class is refused
    with the list of those allowed."""

    logger: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Lightning loggers that get what MLflow gets, in the same form, as in
    `trainer.logger.csv._target_=CSVLogger`."""

    def __post_init__(self) -> None:
        check_settings("trainer", self)
        _check_targets("trainer.callbacks", self.callbacks)
        _check_targets("trainer.logger", self.logger)


def _check_targets(section: str, classes: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless each entry has a name and says which class it stands for."""
    for name, values in classes.items():
        # The name becomes the name of a folder and of a parameter in MLflow.
        check_identifier(f"the name in {section}", name)
        is_named = isinstance(values, Mapping) and isinstance(values.get(TARGET), str)
        advice = f"Set {section}.{name}.{TARGET} to the name of a class."
        check(is_named, f"{section}.{name}", f"a mapping with the key {TARGET}", values, advice)
