"""`hydra/launcher=ray`: the jobs of a sweep on a Ray cluster, or on one that is started here."""

from collections.abc import Sequence
from typing import Any

from tunetrail import ray_cluster
from tunetrail.errors import ConfigError, one_line
from tunetrail.sweeps.launchers.base import JobLauncher
from tunetrail.sweeps.launchers.jobs import Job, JobEnd, run_in_process

_SETTING = "hydra/launcher"
_STOP_SECONDS = 600


class RayLauncher(JobLauncher):
    """Runs as many jobs at a time as the cluster has room for.

    Args:
        cpus: CPU cores that Ray reserves for a job.
        gpus: GPUs that it reserves; None: one if the cluster has any.
    """

    ends_jobs = False

    def __init__(self, cpus: int = 1, gpus: float | None = None) -> None:
        self._cpus = cpus
        self._requested_gpus = gpus

    def check(self) -> None:
        """Raise `ConfigError` if Ray isn't installed, or a number is out of range."""
        ray_cluster.check_installed(_SETTING)
        if self._cpus < 1:
            raise ConfigError(f"hydra.launcher.cpus must be at least 1, got {self._cpus}.")
        if self._requested_gpus is not None and self._requested_gpus < 0:
            raise ConfigError(
                f"hydra.launcher.gpus must be at least 0, got {self._requested_gpus}. "
                "Leave it out for one per job if the cluster has GPUs."
            )

    @property
    def slots(self) -> int:
        """How many jobs run at the same time, if the cluster does nothing else."""
        # Jobs come next: the connection stays until this process ends, or Ray would start again.
        ray_cluster.connect(_SETTING)
        return sum(map(self._room, _machines()))

    def run_jobs(self, jobs: Sequence[Job]) -> list[JobEnd]:
        """Do all jobs; the failure or death of one doesn't stop the others.

        If this process is asked to stop, the jobs save and end before it does.
        """
        import ray

        with ray_cluster.connected(_SETTING):
            self._check_room()
            # Ray would do a job that has died again, from the beginning.
            remote = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus(), max_retries=0)(
                run_in_process
            )
            handles = list(map(remote.remote, jobs))

            try:
                ends = []
                for job, handle in zip(jobs, handles, strict=True):
                    ends.append(_end_of(handle))
                    self.end_job(job, ends[-1])
                return ends
            except BaseException:
                # Raises KeyboardInterrupt in the workers, which let their jobs save.
                for handle in handles:
                    ray.cancel(handle)
                ray.wait(handles, num_returns=len(handles), timeout=_STOP_SECONDS)
                raise

    def _gpus(self) -> float:
        if self._requested_gpus is not None:
            return self._requested_gpus
        has_gpus = any(machine.get("GPU", 0) >= 1 for machine in _machines())
        on_gpus = (self.config.get("trainer") or {}).get("accelerator") != "cpu"
        return float(has_gpus and on_gpus)

    def _room(self, machine: dict[str, float]) -> int:
        """Return how many jobs fit on a machine."""
        room = machine.get("CPU", 0) // self._cpus
        if self._gpus():
            room = min(room, machine.get("GPU", 0) // self._gpus())
        return int(room)

    def _check_room(self) -> None:
        # Ray would wait for ever for a machine that is large enough.
        if not any(map(self._room, _machines())):
            raise ConfigError(
                "hydra.launcher.cpus and hydra.launcher.gpus must fit on a machine of the Ray "
                f"cluster, got {self._cpus} and {self._gpus():g}. Lower them."
            )


def _machines() -> list[dict[str, float]]:
    """Return the resources of each machine of the cluster, by name."""
    import ray

    nodes: Any = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def _end_of(handle: Any) -> JobEnd:
    """Return how a job has ended, after waiting for it."""
    import ray

    try:
        end: JobEnd = ray.get(handle)
    except ray.exceptions.RayError as error:
        return JobEnd(reason=f"lost by Ray: {one_line(error)[:500]}")
    return end
