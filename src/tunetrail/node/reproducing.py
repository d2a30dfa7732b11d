"""Repeats a run with its settings, rows and root, and compares the two; root and registry stay."""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tunetrail.config import BASE, Settings, TrackingConfig, check_identifier, name_of_sessions
from tunetrail.data.rows import rows_of_shapes
from tunetrail.deployment.pinned_registry import PinnedRegistry
from tunetrail.errors import UserError
from tunetrail.learning.devices import thread_count
from tunetrail.node.recorded_family import TRAINING, RecordedFamily
from tunetrail.node.run_differences import (
    benchmark_differences,
    input_differences,
    row_differences,
)
from tunetrail.node.started_run import session_tags
from tunetrail.paths import private_folder
from tunetrail.pipeline import DataSciencePipeline, Outcome
from tunetrail.pipeline.benchmark import Benchmark
from tunetrail.pipeline.environment import (
    Environment,
    differences_since,
    log_environment,
    read_environment,
)
from tunetrail.pipeline.families import family_named
from tunetrail.pipeline.history import History
from tunetrail.pipeline.lineage import Lineage
from tunetrail.pipeline.looks import recorded_digest
from tunetrail.pipeline.reproduction import (
    FamilyReproduction,
    Reproduction,
    first_divergence,
    metric_pairs,
)
from tunetrail.pipeline.row_digests import SampleChanges, digest_rows
from tunetrail.pipeline.run_settings import settings_of
from tunetrail.pipeline.run_state import SavedRunState
from tunetrail.pipeline.session_rows import SessionRows, previous_rows, session_frames
from tunetrail.pipeline.trainer_checks import check_devices
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.resumable_runs import ResumableRun, find_recorded_run
from tunetrail.stores.tracking.tracker import TrackedRun, Tracker

REPRODUCES_TAG = "tunetrail.reproduces"
"""The tag of a run that repeats another one, with the other one's id."""
IDENTICAL_TAG = "tunetrail.identical"
"""The tag of such a run that says whether metrics and weights were the same."""
RESULT = "reproduction.json"
"""The artifact of such a run with the comparison."""

_GENERAL_FILE = "general_file_sha256"
logger = logging.getLogger(__name__)


def reproduce(
    run_id: str, *, tracking: TrackingConfig, database: DatabaseManager, force: bool = False
) -> Reproduction:
    """Repeat a run, and say whether metrics and weights are the same.

    It begins with the rows, the settings, the root and the number of threads of the run. The
    repeated run is below the first one in MLflow; nothing is registered, and root stays.

    Args:
        run_id: The run's id in MLflow, or that of one of its families, which alone is repeated.
        tracking: The MLflow store.
        database: The database with the session.
        force: Repeat the run although some of its rows are gone.

    Raises:
        UserError: There is no such run, its training has not ended, or what it began with is gone.
        TunetrailError: The repeated run failed.
    """
    recorded = find_recorded_run(tracking, database, run_id)
    settings = settings_of(recorded.settings, tracking)
    tracker = Tracker(settings.tracking)

    # The id may be a family's own: then this family alone is repeated.
    run_ids = {name: family.run_id for name, family in recorded.model_runs.items()}
    asked_for = {name: child for name, child in run_ids.items() if child == run_id}
    families = [
        RecordedFamily(family=family_named(name), run=tracker.run(child))
        for name, child in (asked_for or run_ids).items()
    ]
    if not families or not all(family.is_trained for family in families):
        state = recorded.training.state
        raise UserError(
            f"RUN_ID must be a run whose training has ended, got {run_id}, which is {state}. "
            "`tunetrail runs` lists the runs with their state."
        )

    top = run_id if asked_for else recorded.run_id
    repetition = _Repetition(
        recorded=recorded, settings=settings, tracker=tracker, database=database, top_id=top
    )
    return repetition.run(families, force=force)


@dataclass(frozen=True, kw_only=True)
class _Repetition:
    """Repeats the families of a run.

    Attributes:
        recorded: The run.
        settings: Its settings.
        tracker: The MLflow store.
        database: The database with the session.
        top_id: The run in MLflow below which the repeated run goes.
    """

    recorded: ResumableRun
    settings: Settings
    tracker: Tracker
    database: DatabaseManager
    top_id: str

    @property
    def session_ids(self) -> Sequence[str]:
        """The sessions that the run learns from."""
        return self.recorded.training.session_ids

    def run(self, families: Sequence[RecordedFamily], *, force: bool) -> Reproduction:
        """Repeat families, unless some of their rows are gone, and compare them."""
        check_devices(self.settings, [family.family for family in families])
        environment = read_environment(self.tracker.run(self.recorded.run_id))
        # With the threads of the run, which the repeated one will have.
        with self._threads(environment):
            differences = None if environment is None else differences_since(environment)
        # A version that was deleted has to fail before anything is trained.
        for family in families:
            self._registry(family, family.root_at_start())
            self._registry(family, family.root_to_beat())

        changes = {family.family.name: self._row_changes(family) for family in families}
        lost = sum(rows.lost for rows in changes.values() if rows is not None)
        if lost and not force:
            return Reproduction(
                run_id=self.recorded.run_id,
                reproduction_id=None,
                differences=differences,
                families=[
                    _not_repeated(family, changes[family.family.name]) for family in families
                ],
            )

        tags = {REPRODUCES_TAG: self.top_id, **session_tags(self.session_ids)}
        name = f"reproduction of {self.top_id[:8]}"
        run = self.tracker.start_run(name, parent_run_id=self.top_id, tags=tags)
        with run.finish_on_exit(), self._threads(environment):
            log_environment(run)
            repeated = [
                self._repeat(family, run, changes[family.family.name], alone=len(families) == 1)
                for family in families
            ]
            reproduction = Reproduction(
                run_id=self.recorded.run_id,
                reproduction_id=run.run_id,
                differences=differences,
                families=repeated,
            )
            run.log_dict(reproduction.to_dict(), RESULT)
            run.set_tags({IDENTICAL_TAG: str(reproduction.identical).lower()})
        return reproduction

    def _threads(self, environment: Environment | None) -> contextlib.AbstractContextManager[None]:
        threads = None if environment is None else environment.machine.get("threads")
        return contextlib.nullcontext() if threads is None else thread_count(int(threads))

    def _registry(self, family: RecordedFamily, version: str | None) -> PinnedRegistry:
        name = self.settings.tracking.registered_name(family.family.name)

        def read_digest(version: str, run_id: str) -> str | None:
            return recorded_digest(self.database.promotions(name), version, run_id)

        return PinnedRegistry(self.tracker, name, family.family.flavor, version, read_digest)

    def _benchmark(self, family: RecordedFamily) -> Benchmark:
        """Return the rows of earlier sessions that the run was scored on, as far as they remain."""
        return Benchmark(
            database=self.database,
            family=family.family,
            session_ids=self.session_ids,
            prefix=self.settings.tracking.prefix,
            row_ids=frozenset(family.benchmark_row_ids),
        )

    def _frames(self, family: RecordedFamily) -> Iterator[pd.DataFrame]:
        """Yield all samples of the family that the sessions have now."""
        sessions = (
            session_frames(self.database, session_id, family.family)
            for session_id in self.session_ids
        )
        return chain.from_iterable(sessions)

    def _row_changes(self, family: RecordedFamily) -> SampleChanges | None:
        then = family.row_digests
        return None if then is None else then.changes_to(digest_rows(self._frames(family)))

    def _rows(self, family: RecordedFamily, session_id: str) -> Iterator[pd.DataFrame]:
        """Yield the rows of a session that the run was given, without what has come since."""
        then = family.row_digests
        for frame in session_frames(self.database, session_id, family.family):
            if then is not None:
                # Ids only grow: an unknown row has come since.
                is_known = np.isin(frame["row_id"].to_numpy(np.int64), then.row_ids)
                frame = frame if is_known.all() else _chosen(frame, is_known)
            if len(frame):
                yield frame

    def _repeat(
        self, family: RecordedFamily, run: TrackedRun, rows: SampleChanges | None, *, alone: bool
    ) -> FamilyReproduction:
        """Repeat one family, in the run itself if it is the only one, and compare it."""
        name = family.family.name
        own_run = run if alone else run.child(name, {"tunetrail.model_type": name})
        folder = Path(self.settings.output_dir) / check_identifier("run_id", own_run.run_id)
        own_end = contextlib.nullcontext() if alone else own_run.finish_on_exit()
        try:
            with own_end:
                outcome = self._stages(family, own_run, folder)
        finally:
            # Nothing of it is resumed, and its weights are known by their digest.
            shutil.rmtree(folder, ignore_errors=True)

        repeated = RecordedFamily(family=family.family, run=own_run)
        then, now = family.training, outcome.steps[TRAINING]
        return FamilyReproduction(
            family=name,
            run_id=family.run.run_id,
            reproduction_id=own_run.run_id,
            rows=rows,
            differences=[
                *row_differences(rows),
                *benchmark_differences(family, repeated),
                *input_differences(family, repeated),
            ],
            metrics=metric_pairs(family.metrics, repeated.metrics),
            weights=(then.get("weights_digest"), now["weights_digest"]),
            divergence=first_divergence(then["history"], now["history"]),
        )

    def _stages(self, family: RecordedFamily, run: TrackedRun, folder: Path) -> Outcome:
        """Take the rows through the stages that the run went through, without the deployment."""
        private_folder(folder)
        digest = family.data.data.params.get(_GENERAL_FILE)
        general_file = None
        if digest is not None:
            general_file = {"digest": digest, "versions": None, "left_out": []}
        start, to_beat = family.root_at_start(), family.root_to_beat()
        # What replaced `auto` isn't searched again: it depends on the machine and its load.
        state = SavedRunState(
            folder=folder,
            auto_values=family.training.get("found", {}),
            general_file=general_file,
            started_from=BASE if start is None else None,
        )
        state.save()

        # Jobs of a sweep end with the fit.
        if not family.comparison:
            return self._run_until("fit", family, run, start)
        if start not in (None, to_beat):
            # Root moved during the training.
            self._run_until("fit", family, run, start)
        return self._run_until("evaluate", family, run, to_beat)

    def _run_until(
        self, stage: str, family: RecordedFamily, run: TrackedRun, root: str | None
    ) -> Outcome:
        """Repeat a family's run until a stage, with the rows and the root that it had then."""
        sessions = {}
        for session_id in self.session_ids:
            reference = previous_rows(self.database, session_id, family.family, self.settings)
            sessions[session_id] = SessionRows(
                rows=self._rows(family, session_id), reference=reference
            )
        # The interval's level depends on the looks, of which there have been more since.
        look = float(family.comparison.get("look", 1.0))
        prefix = self.settings.tracking.prefix
        history = History(
            count_looks=lambda sketch: look - 1.0,
            lineage=Lineage(database=self.database, family=family.family, prefix=prefix),
            read_own_columns=self.database.read_own_columns,
            benchmark=self._benchmark(family),
        )

        return DataSciencePipeline(self.settings, tracker=self.tracker).run(
            family.family.name,
            sessions,
            name=name_of_sessions(self.session_ids),
            tags=session_tags(self.session_ids),
            history=history,
            registry=self._registry(family, root),
            until=stage,
            run=run,
            resumed=run,
        )


def _not_repeated(family: RecordedFamily, rows: SampleChanges | None) -> FamilyReproduction:
    return FamilyReproduction(
        family=family.family.name,
        run_id=family.run.run_id,
        reproduction_id=None,
        rows=rows,
        differences=row_differences(rows),
    )


def _chosen(frame: pd.DataFrame, is_chosen: Any) -> pd.DataFrame:
    """Return some rows of a frame, without the columns that only other shapes have."""
    rows = frame[is_chosen]
    return rows_of_shapes(rows, set(rows["shape"]))
