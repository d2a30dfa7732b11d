"""Run one function in several workers of a Ray cluster, the ranks of a training, by Ray Train.

`TorchTrainer` starts the workers, puts them into a process group, and stops all of them if one
fails.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from tunetrail import ray_cluster
from tunetrail.config.trainer import TrainerConfig
from tunetrail.config.training import AUTO
from tunetrail.errors import ConfigError, TrainingError, TunetrailError, first_line
from tunetrail.learning.devices import device_count
from tunetrail.learning.recovery.signals import act_on_signal
from tunetrail.learning.workers import HANDLED_SIGNALS, PATIENCE_SECONDS, RanksFailedError

logger = logging.getLogger(__name__)

_SETTING = "trainer.launcher"
_POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    """How many workers a training has, and what of the cluster each of them reserves."""

    workers: int
    resources: Mapping[str, float]


def worker_count(trainer: TrainerConfig) -> int:
    """Return the number of workers that a training on Ray has.

    Raises:
        ConfigError: Ray isn't installed, the cluster can't be reached, or it has fewer devices.
    """
    if not ray_cluster.is_named():
        # The cluster that will be started has the devices of this machine.
        ray_cluster.check_installed(_SETTING)
        return device_count(trainer)
    with ray_cluster.connected(_SETTING):
        return _share_of_cluster(trainer).workers


def run_on_ray(
    work: Callable[[dict[str, Any]], None],
    arguments: Mapping[str, Any],
    trainer: TrainerConfig,
    folder: Path,
    on_poll: Callable[[], None],
    ask_to_stop: Callable[[], None],
) -> None:
    """Run `work(arguments)` in as many workers as the training has devices.

    The workers find their ranks in the environment, as `torch.distributed.run` sets it.

    Args:
        work: A function of a module, which every machine of the cluster can import.
        arguments: Its argument.
        trainer: The devices.
        folder: For Ray's files.
        on_poll: Called again and again while the workers run, and once afterwards.
        ask_to_stop: Asks the workers to save and to return.

    Raises:
        ConfigError: Ray isn't installed, the cluster can't be reached, or it has fewer devices.
        RanksFailedError: The function raised in a worker; the others have been stopped.
        TrainingError: A worker or Ray itself died.
        KeyboardInterrupt: SIGINT came; the workers have been asked to stop and have stopped.
        SIGTERMException: The same of SIGTERM.
    """
    is_new = ray_cluster.connect(_SETTING)
    training: _Training | None = None
    try:
        training = _Training(work, arguments, _share_of_cluster(trainer), folder)
        with _received_signals() as received:
            _wait(training, received, on_poll, ask_to_stop)
        if received:
            act_on_signal(received[0], signal.getsignal(received[0]))
        training.check()
    finally:
        # Workers that didn't stop in time end with the connection.
        if is_new or (training is not None and training.is_running):
            ray_cluster.disconnect()


class _Training:
    """Ray Train at work, in a thread: in the main thread it would take Ctrl-C for itself."""

    def __init__(
        self,
        work: Callable[[dict[str, Any]], None],
        arguments: Mapping[str, Any],
        share: _Share,
        folder: Path,
    ) -> None:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        self._trainer = TorchTrainer(
            work,
            train_loop_config=dict(arguments),
            scaling_config=ScalingConfig(
                num_workers=share.workers,
                use_gpu="GPU" in share.resources,
                resources_per_worker=dict(share.resources),
            ),
            # Or Ray would write to the home directory.
            run_config=RunConfig(name="ray", storage_path=str(folder.resolve())),
        )
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fit, name="ray-train", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Tell whether workers may be running."""
        return self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Wait for the end, but not longer than this."""
        self._thread.join(seconds)

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._error is None:
            return
        if isinstance(self._error, TunetrailError):
            raise self._error

        from ray.train import WorkerGroupError

        if not isinstance(self._error, WorkerGroupError):
            cause = getattr(self._error, "controller_failure", self._error)
            reason = (str(cause).strip().splitlines() or [type(cause).__name__])[-1]
            raise TrainingError(f"Ray can't run the training: {reason}") from self._error
        _raise_failure(self._error.worker_failures)

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self._error = error


def _raise_failure(failures: Mapping[int, BaseException]) -> NoReturn:
    """Raise the failure of the workers that has caused the others."""
    from ray.exceptions import RayActorError

    # A lost worker says nothing, and its neighbours fail in an exchange that can't complete.
    for rank, failure in sorted(failures.items()):
        cause = getattr(failure, "health_check_failure", failure)
        if isinstance(cause, RayActorError):
            raise TrainingError(
                f"rank {rank} was lost with its process or its machine, and the other ranks were "
                "stopped. If the system killed it because its memory was full, lower "
                "training.batch_size; otherwise continue with tunetrail resume."
            ) from failure

    for rank, failure in sorted(failures.items()):
        if isinstance(failure, TunetrailError):
            raise failure
        if not isinstance(failure, SystemExit):
            raise TrainingError(
                f"rank {rank} failed: {type(failure).__name__}: {first_line(failure)}"
            ) from failure
    # These have written why they ended.
    raise RanksFailedError(dict.fromkeys(failures, 1))


def _wait(
    training: _Training,
    received: list[int],
    on_poll: Callable[[], None],
    ask_to_stop: Callable[[], None],
) -> None:
    """Wait until the workers have ended, or must not be waited for any longer."""
    deadline = float("inf")
    while training.is_running and len(received) < 2 and time.monotonic() < deadline:
        if received and deadline == float("inf"):
            name = signal.Signals(received[0]).name
            logger.warning("%s: stopping after this step; a second signal stops at once", name)
            ask_to_stop()
            deadline = time.monotonic() + PATIENCE_SECONDS
        on_poll()
        training.wait(_POLL_SECONDS)
    on_poll()


@contextmanager
def _received_signals() -> Iterator[list[int]]:
    """Collect the signals that ask this process to stop, instead of obeying them."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        # Python installs signal handlers in the main thread only.
        yield received
        return

    def receive(signal_number: int, frame: FrameType | None) -> None:
        received.append(signal_number)

    handlers = {
        signal_number: signal.signal(signal_number, receive) for signal_number in HANDLED_SIGNALS
    }
    try:
        yield received
    finally:
        for signal_number, handler in handlers.items():
            signal.signal(signal_number, handler)


def _share_of_cluster(trainer: TrainerConfig) -> _Share:
    """Return what a training takes of the cluster that this process is connected to.

    Raises:
        ConfigError: The cluster has fewer devices: Ray would wait for more without an end.
    """
    import ray

    list_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
    nodes = [node["Resources"] for node in list_nodes() if node["Alive"]]
    gpus = [int(resources.get("GPU", 0)) for resources in nodes]
    if trainer.accelerator == "gpu" and not sum(gpus):
        raise ConfigError(
            "trainer.accelerator must be cpu or auto on this Ray cluster, got 'gpu': it has no "
            "GPU. Start its machines with `ray start --num-gpus`, or set trainer.accelerator=cpu."
        )

    is_gpu = trainer.accelerator != "cpu" and sum(gpus) > 0
    devices = gpus if is_gpu else [int(resources.get("CPU", 0)) for resources in nodes]
    automatic = sum(gpus) if is_gpu else 1
    workers = automatic if trainer.devices == AUTO else int(trainer.devices)
    if workers > sum(devices):
        kind = "GPUs" if is_gpu else "CPU cores"
        raise ConfigError(
            f"trainer.devices must be at most the {sum(devices)} {kind} of the Ray cluster, got "
            f"{workers}. Lower it, or add machines to the cluster."
        )
    if is_gpu:
        return _Share(workers=workers, resources={"GPU": 1})

    # As many cores as all workers can have, each on one machine; Ray sets as many threads.
    cores = max(devices)
    while sum(count // cores for count in devices) < workers:
        cores -= 1
    return _Share(workers=workers, resources={"CPU": cores})
