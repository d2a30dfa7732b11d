"""Checks of the jobs of a sweep, before the first one is trained."""

from collections.abc import Sequence

from tunetrail.config import TrainRequest
from tunetrail.config.checks import check
from tunetrail.errors import ConfigError
from tunetrail.pipeline.requests import check_sessions, single_family
from tunetrail.pipeline.trainer_checks import check_callbacks, check_devices
from tunetrail.stores.database.manager import SessionSummary

# What all jobs share: their objectives are of the same rows, and one of them becomes root.
_SAME_FOR_ALL = (
    *("session_id", "model_type", "database", "tracking", "split", "sweep"),
    "model_dir",
)


def check_same(first: TrainRequest, request: TrainRequest) -> None:
    """Raise `ConfigError` if two jobs can't be compared."""
    for name in _SAME_FOR_ALL:
        if getattr(first, name) != getattr(request, name):
            # Without the values, which may hold passwords.
            raise ConfigError(
                f"{name} must be the same for all jobs of a sweep, which are compared on the same "
                "rows to find one model. Start a sweep for each value."
            )


def check_job(request: TrainRequest, summaries: Sequence[SessionSummary]) -> None:
    """Check what a training of its own checks before it starts.

    Args:
        request: What the job trains.
        summaries: The sessions that it learns from.

    Raises:
        UserError: The job can't be trained as it is configured.
        ModelError: Its base model can't be found.
    """
    check(
        request.trainer.num_nodes == 1,
        "trainer.num_nodes",
        "1 in a sweep",
        request.trainer.num_nodes,
        "Start the trainings one by one.",
    )
    family = single_family(summaries, request.model_type)
    check_sessions(request, summaries, (family,))
    check_devices(request, (family,))
    check_callbacks(request, (family,))
    family.resolve_base(request)
