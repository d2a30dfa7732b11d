"""Find a sweep whose driver has ended, and how it was started."""

from tunetrail.config import TrackingConfig
from tunetrail.errors import UserError
from tunetrail.paths import is_missing_file
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.tracking.run_tags import SWEEP_TAG
from tunetrail.stores.tracking.tracker import Tracker
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
    if is_missing_file(tracking.uri):
        return None
    run = Tracker(tracking).find_run(run_id)
    if run is None or SWEEP_TAG not in run.data.tags:
        return None

    if run.info.status == "FINISHED":
        raise UserError(f"the sweep {run_id} has succeeded: nothing is left to do.")
    process = ProcessIdentity.from_tags(run.data.tags)
    # A killed driver couldn't mark its run, which says RUNNING until somebody looks.
    if run.info.status == "RUNNING" and process is not None:
        process.check_ended(f"the sweep {run_id}", force=force)

    study = SweepStudy.open(manager, run_id)
    # Quoted: an id may consist of digits only.
    return [*study.plan.overrides, f"hydra.sweeper.resume='{run_id}'"]
