"""Settings of the devices that a training runs on."""

from dataclasses import dataclass

from tunetrail.config.checks import Rule, check_settings, one_of, setting
from tunetrail.config.training import AUTO


def _is_device_count(value: object) -> bool:
    if isinstance(value, int) and not isinstance(value, bool):
        return value >= 1
    return value == AUTO


@dataclass(kw_only=True)
class TrainerConfig:
    """Which devices train a model, in the words of Lightning's Trainer."""

    accelerator: str = setting("auto", one_of("auto", "cpu", "gpu"))
    """Kind of device; `auto` is a GPU if there is one, otherwise the CPU."""

    devices: int | str = setting(1, Rule("auto or at least 1", _is_device_count))
    """Number of devices, each with a process of its own; `auto` takes all GPUs, and one
    process on a CPU. Batches, steps and gradients don't depend on it: each device computes a
    share of every batch."""

    strategy: str = setting("auto", one_of("auto", "ddp"))
    """How several devices train one model. `ddp` keeps a copy of the model on each and adds
    the gradients up; `auto` is `ddp` if there are several devices."""

    def __post_init__(self) -> None:
        check_settings("trainer", self)
