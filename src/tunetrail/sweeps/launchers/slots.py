"""Slots: the shares of this machine that jobs run in, each with its GPUs and CPU threads."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunetrail.hardware import cpu_count

_SLOTS_WITHOUT_GPU = 2
_GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
# What torch, numpy, scipy, pandas and the tokenizers read when they are imported.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A share of this machine, in which one job runs at a time.

    Attributes:
        number: Number of the slot, from 1.
        threads: CPU threads of its jobs.
        gpus: Names of its GPUs, as in CUDA_VISIBLE_DEVICES; empty if it has none.
    """

    number: int
    threads: int
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"slot {self.number}" + (f" (GPU {', '.join(self.gpus)})" if self.gpus else "")

    def environment(self) -> dict[str, str]:
        """Return the variables that keep a job within its slot."""
        variables = {_GPU_VARIABLE: ",".join(self.gpus)} if self.gpus else {}
        for name in _THREAD_VARIABLES:
            # A number of threads that the user has set counts for each process, also for a job.
            variables[name] = os.environ.get(name, str(self.threads))
        return variables


def default_slots(gpus: Sequence[str]) -> int:
    """Return the number of slots: one per GPU; without GPUs two, but at most one per core."""
    return len(gpus) or min(_SLOTS_WITHOUT_GPU, cpu_count())


def divide_machine(count: int, gpus: Sequence[str]) -> list[Slot]:
    """Return `count` slots, among which the CPU cores and the GPUs are divided.

    Slots get equally many GPUs, so that some GPUs may stay unused. More slots than GPUs share them
    in turn.
    """
    threads = max(cpu_count() // count, 1)
    per_slot = len(gpus) // count

    slots = []
    for index in range(count):
        leased = tuple(gpus[index * per_slot : (index + 1) * per_slot])
        if gpus and not leased:
            leased = (gpus[index % len(gpus)],)
        slots.append(Slot(number=index + 1, threads=threads, gpus=leased))
    return slots


def gpus_for(trainer: Mapping[str, object]) -> list[str]:
    """Return the GPUs that a training with these `trainer` settings may use."""
    # Imported late: torch takes seconds, and this module is imported by every command.
    from tunetrail.learning.devices import visible_gpus

    return [] if trainer.get("accelerator") == "cpu" else visible_gpus()
