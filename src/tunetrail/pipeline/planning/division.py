"""Division: how the ranks of a training divide its work."""

from dataclasses import dataclass

from tunetrail.config.trainer import TrainerConfig
from tunetrail.hardware import cpu_count
from tunetrail.learning.devices import CPU, device_kind
from tunetrail.pipeline.ranks import rank_count

# Until a rank has imported its libraries (lab log, 2026-11-30).
_START_SECONDS = 8.0


@dataclass(frozen=True, kw_only=True)
class Division:
    """How the ranks of a training divide its work.

    Attributes:
        ranks: Number of processes that train.
        devices: Number of devices that compute at the same time. Processes on the cores of one
            machine are one device: together they take as long as a single process.
        start_seconds: What each training waits for its processes; 0 if it runs in this one.
    """

    ranks: int = 1
    devices: int = 1
    start_seconds: float = 0.0

    @property
    def is_alone(self) -> bool:
        """Whether this process trains by itself."""
        return self.start_seconds == 0.0

    def share(self, count: int) -> int:
        """Return the rows or tokens that each device gets of a batch with `count` of them."""
        return -(-count // self.devices)


def division_of(trainer: TrainerConfig) -> Division:
    """Return how the devices of a training divide its work.

    Raises:
        ConfigError: There are fewer devices.
    """
    ranks = rank_count(trainer)
    has_own_devices = device_kind(trainer.accelerator) != CPU.type
    is_alone = ranks == 1 and trainer.launcher == "local"
    if is_alone:
        return Division()

    # Whatever the device, processes that start together share the cores.
    ranks_per_core = ranks / trainer.num_nodes / cpu_count()
    return Division(
        ranks=ranks,
        devices=ranks if has_own_devices else trainer.num_nodes,
        start_seconds=_START_SECONDS * max(ranks_per_core, 1.0),
    )
