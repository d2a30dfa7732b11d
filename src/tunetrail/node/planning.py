"""Plans a training on sessions: what it will take, before it is paid for; nothing is recorded."""

import time
from collections.abc import Sequence

from tunetrail.config import Settings, name_of_sessions
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.planning.family_planner import FamilyPlanner
from tunetrail.pipeline.planning.run_plan import RunPlan
from tunetrail.pipeline.session_rows import rows_by_session
from tunetrail.scratch import scratch_folder
from tunetrail.stores.database.manager import DatabaseManager


def plan_sessions(
    settings: Settings,
    database: DatabaseManager,
    session_ids: Sequence[str],
    families: Sequence[ModelFamily],
    start_seconds: float = 0.0,
) -> RunPlan:
    """Return what a training of the families on sessions will take.

    Rows are prepared in a scratch folder, and a few steps of each family's model are timed.

    Args:
        settings: What is trained and how.
        database: Holds the sessions.
        session_ids: The sessions.
        families: The families that are trained, one after another.
        start_seconds: What a training takes until it has imported its libraries; 0 if it will run
            in this process, which has imported them.

    Raises:
        UserError: The settings, the sessions or their samples can't be trained on.
    """
    began = time.perf_counter()
    plans = {}
    for family in families:
        sessions = rows_by_session(database, session_ids, family, settings)
        planner = FamilyPlanner(family=family, settings=settings, database=database)
        with scratch_folder() as folder:
            plans[family.name] = planner.plan(sessions, folder, start_seconds)
        # A training imports them once for all families.
        start_seconds = 0.0
    return RunPlan(
        session_id=name_of_sessions(session_ids),
        families=plans,
        planning_seconds=time.perf_counter() - began,
    )
