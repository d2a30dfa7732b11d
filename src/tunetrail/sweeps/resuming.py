"""Find a sweep whose driver has ended, and how it was started."""

from tunetrail.config import TrackingConfig
from tunetrail.errors import UserError
from tunetrail.stores.database import DatabaseManager
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.tracking import Tracker, sqlite_file
from tunetrail.sweeps.driver import SWEEP_TAG
from tunetrail.sweeps.study import SweepStudy


def sweep_arguments(
    tracking: TrackingConfig, manager: DatabaseManager, run_id: str, *, force: bool = False
) -> list[str] | None:
    """Return what `tunetrail train` is called with to go on with a sweep.

    Args:
        tracking: The MLflow store of the sweep's run.
        manager: The database of the sweep's study.
        run_id: The id of a run in MLflow.
        force: Take a driver on another host for dead.

    Returns:
        The arguments, without the addresses of the stores; None if the run isn't a sweep's.

    Raises:
        UserError: The sweep has succeeded, its driver is alive, or the database doesn't know it.
    """
    # A Tracker would make the missing file.
    file = sqlite_file(tracking.uri)
    if file is not None and not file.exists():
        return None
    run = Tracker(tracking).find_run(run_id)
    if run is None or SWEEP_TAG not in run.data.tags:
        return None

    if run.info.status == "FINISHED":
        raise UserError(f"the sweep {run_id} has succeeded: nothing is left to do.")
    process = ProcessIdentity.from_tags(run.data.tags)
    # A killed driver couldn't mark its run, which says RUNNING until somebody looks.
    if run.info.status == "RUNNING" and process is not None and not process.is_dead():
        _check_driver(run_id, process, force)

    study = SweepStudy.open(manager, run_id)
    # Quoted: an id may consist of digits only.
    return [*study.plan.overrides, f"hydra.sweeper.resume='{run_id}'"]


def _check_driver(run_id: str, process: ProcessIdentity, force: bool) -> None:
    if process.is_here:
        raise UserError(
            f"the sweep {run_id} is still running in process {process.pid}. "
            "Wait until it has ended, or stop it."
        )
    # Whether a process of another host is alive can't be checked from here.
    if not force:
        raise UserError(
            f"the sweep {run_id} belongs to process {process.pid} on the host {process.host}, "
            "which may be alive. Resume it there, or add --force if it has certainly ended."
        )
