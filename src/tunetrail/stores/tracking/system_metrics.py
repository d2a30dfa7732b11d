"""The use of CPU, memory, disk, network and GPU while a run goes on, as MLflow's pages show it.

MLflow measures; the metrics take the way of all others. Its own monitor asks the server for the run
after each sample, and ends for good when the server doesn't answer.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from tunetrail.config import TrackingConfig

if TYPE_CHECKING:
    from tunetrail.stores.tracking.tracked_runs import TrackedRun

SYSTEM = "system/"
"""Prefix of the names; MLflow's pages show such metrics on a page of their own."""
# MLflow measures it on every machine.
_CPU = "cpu_utilization_percentage"
_SECONDS_BETWEEN_SAMPLES = 10.0
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def system_metrics(run: "TrackedRun", config: TrackingConfig) -> Iterator[None]:
    """Log the use of the machine every ten seconds in the block, unless the settings say no."""
    if not config.system_metrics:
        yield
        return

    has_ended = threading.Event()
    thread = threading.Thread(
        target=_measure, args=(run, has_ended), name="tunetrail-system-metrics", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


def _measure(run: "TrackedRun", has_ended: threading.Event) -> None:
    """Log a sample every few seconds until the run has ended."""
    try:
        monitors = _monitors()
        step = _next_step(run) if run.resumed else 0
        while not has_ended.wait(_SECONDS_BETWEEN_SAMPLES):
            metrics: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                metrics.update(monitor.aggregate_metrics())
                monitor.clear_metrics()
            run.log_metrics({f"{SYSTEM}{name}": value for name, value in metrics.items()}, step)
            step += 1
    # A broken driver of a GPU, for example: what is measured on the side must not end a training.
    except Exception as error:
        _log.warning("the use of the machine is no longer logged: %s", error)


def _next_step(run: "TrackedRun") -> int:
    """Return the step after the last one that was logged before the run was resumed."""
    with run.tracker.request():
        history = run.tracker.client.get_metric_history(run.run_id, f"{SYSTEM}{_CPU}")
    return max((point.step for point in history), default=-1) + 1


def _monitors() -> list[Any]:
    # MLflow's classes have no annotations of their own.
    kinds: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor]
    monitors = [kind() for kind in kinds]
    gpu_monitor: Any = GPUMonitor
    # MLflow raises whatever goes wrong without an NVIDIA GPU, its driver or its package.
    with contextlib.suppress(Exception):
        monitors.append(gpu_monitor())
    return monitors
