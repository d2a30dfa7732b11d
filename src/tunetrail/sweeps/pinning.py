"""Pin what a sweep begins with, and say what has changed since.

Jobs are compared with one another, so all of them learn from the samples that were there at the
start of the sweep, and begin with the root of that moment. The winner meets the root of its own.
"""

import logging

from tunetrail.config import TrainRequest, checked_session_ids
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.pins import Pins
from tunetrail.pipeline.requests import single_family, summaries_of
from tunetrail.stores.database.ledger import version_in_words
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


def pins_of_now(manager: DatabaseManager, request: TrainRequest) -> Pins:
    """Return the samples and the root that a job of this request would begin with now."""
    session_ids = checked_session_ids(request.session_id)
    family = _family(manager, request)
    samples = {
        session_id: manager.snapshot_samples(session_id, family.kind) for session_id in session_ids
    }
    return Pins(samples=samples, root=_root(request, family))


def warn_of_changes(pins: Pins, manager: DatabaseManager, request: TrainRequest) -> None:
    """Say in one line what is no longer as it was when a sweep began, and what jobs do about it."""
    family = _family(manager, request)
    notes = []
    for session_id, then in pins.samples.items():
        still_there = manager.snapshot_samples(session_id, family.kind, then.last_id)
        now = manager.snapshot_samples(session_id, family.kind)
        arrived = now.rows - still_there.rows
        if arrived:
            notes.append(f"{arrived} new samples of the session {session_id} are left out")
        if still_there.digest != then.digest:
            lost = then.rows - still_there.rows
            what = f"{lost} of {then.rows}" if lost else "some"
            notes.append(
                f"{what} samples of the session {session_id} are gone or have changed, so that "
                "jobs that have not begun can't be compared with the others"
            )

    root = _root(request, family)
    if root != pins.root:
        notes.append(
            f"root is {version_in_words(root)}, and jobs still begin with "
            f"{version_in_words(pins.root)}"
        )
    if notes:
        logger.warning("since the sweep began: %s", "; ".join(notes))


def _family(manager: DatabaseManager, request: TrainRequest) -> ModelFamily:
    summaries = summaries_of(manager, checked_session_ids(request.session_id))
    return single_family(summaries, request.model_type)


def _root(request: TrainRequest, family: ModelFamily) -> str | None:
    """Return the version of the family that is root; None if there is none."""
    name = request.tracking.registered_name(family.name)
    return RootAlias(tracker=Tracker(request.tracking), name=name).version()
