"""Trains the families of a started run, one after another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunetrail.config import Settings, name_of_sessions
from tunetrail.deployment.pinned_registry import PinnedRegistry
from tunetrail.deployment.registry import Registry
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.node.started_run import StartedRun, session_tags
from tunetrail.pipeline import STAGES, STEPS, DataSciencePipeline, Outcome
from tunetrail.pipeline.benchmark import Benchmark
from tunetrail.pipeline.families import requested_families
from tunetrail.pipeline.history import History, RunLedger
from tunetrail.pipeline.lineage import Lineage
from tunetrail.pipeline.looks import earlier_looks, promotion_rows, recorded_digest
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.pins import Pins
from tunetrail.pipeline.recording import resumable, summarize
from tunetrail.pipeline.replay import earlier_sessions
from tunetrail.pipeline.session_rows import rows_by_session
from tunetrail.pipeline.stages.fit import ValidationSink, ignore_validation
from tunetrail.stores.database.manager import DatabaseManager
from tunetrail.stores.resumable_runs import finished_steps


@dataclass(frozen=True, kw_only=True)
class FamilyTraining:
    """Takes the families of a started run through the pipeline.

    Attributes:
        settings: What is trained and how.
        database: Holds the session, and the ledger of root's moves.
        started: The run, and what an earlier attempt left of it.
        pins: What it begins with, whatever has come since; None for what there is now.
    """

    settings: Settings
    database: DatabaseManager
    started: StartedRun
    pins: Pins | None = None

    @property
    def families(self) -> tuple[ModelFamily, ...]:
        """The families that the run trains."""
        return requested_families(self.started.model_type)

    def train_all(self) -> dict[str, dict[str, Any]]:
        """Train the families that aren't finished; return the results by step and family."""
        run = self.started.run

        # A mistake in what a later family needs has to fail before the first one is trained.
        for family in self.families:
            if not self.started.is_finished(family):
                family.resolve_base(self.settings)
            if self.settings.replay and family.name not in self.started.model_runs:
                self._check_replay(family)

        steps: dict[str, dict[str, Any]] = {}
        for family in self.families:
            results = self._results(family)
            # After each family: a later one may fail, and this one's root has moved.
            summarize(run, family.name, results)
            for step, result in results.items():
                steps.setdefault(step, {})[family.name] = result
        return steps

    def _check_replay(self, family: ModelFamily) -> None:
        """Raise `ConfigError` if there is nothing to replay."""
        tracking = self.settings.tracking
        name = tracking.registered_name(family.name)
        root = RootAlias(tracker=self.started.run.tracker, name=name).version()
        lineage = Lineage(database=self.database, family=family, prefix=tracking.prefix)
        earlier_sessions(self.settings, lineage, root, self.started.session_ids)

    def _results(self, family: ModelFamily) -> dict[str, Any]:
        """Return a family's results by step, or what an earlier attempt finished with."""
        run = self.started.run
        if self.started.is_finished(family):
            run_id = self.started.model_runs[family.name].run_id
            return finished_steps(run.tracker, run_id, STEPS)

        with resumable(self.settings.sweep.run_id or run.run_id):
            return self.train(family).to_dict()

    def train(
        self,
        family: ModelFamily,
        *,
        until: str = STAGES[-1],
        on_validation: ValidationSink = ignore_validation,
    ) -> Outcome:
        """Take one family through the pipeline, to the end of the stage `until`."""
        started, session_ids = self.started, self.started.session_ids
        interrupted = started.model_runs.get(family.name)
        shares_run = started.shares_run(family)
        tracker = started.run.tracker
        history = self._history(family)

        return DataSciencePipeline(self.settings, tracker=tracker).run(
            family.name,
            rows_by_session(self.database, session_ids, family, self.settings, self.pins),
            name=name_of_sessions(session_ids),
            parent=None if shares_run else started.run,
            tags=session_tags(session_ids),
            on_validation=on_validation,
            history=history,
            general_file=started.general_files.get(family.name),
            selection=started.selection,
            registry=self._pinned_registry(family, history),
            until=until,
            run=started.run if shares_run else None,
            resumed=tracker.run(interrupted.run_id) if interrupted else None,
        )

    def _pinned_registry(self, family: ModelFamily, history: History) -> Registry | None:
        """Return the registry in which root is the pinned version; None without pins."""
        if self.pins is None:
            return None
        name = self.settings.tracking.registered_name(family.name)
        tracker, flavor = self.started.run.tracker, family.flavor
        return PinnedRegistry(tracker, name, flavor, self.pins.root, history.read_digest)

    def _history(self, family: ModelFamily) -> History:
        """Return what the database knows of the family's earlier trainings."""
        started, database, session_ids = self.started, self.database, self.started.session_ids
        interrupted = started.model_runs.get(family.name)
        prefix = self.settings.tracking.prefix
        name_of_root = self.settings.tracking.registered_name(family.name)

        def count_looks(sketch: Sequence[str]) -> float:
            run_id = interrupted.run_id if interrupted else None
            promotions = database.promotions(name_of_root)
            return earlier_looks(promotions, sketch, session_ids, run_id)

        def read_promotion_rows(version: str) -> Sequence[str] | None:
            return promotion_rows(database.promotions(name_of_root), version)

        def read_digest(version: str, run_id: str) -> str | None:
            return recorded_digest(database.promotions(name_of_root), version, run_id)

        return History(
            count_looks=count_looks,
            lineage=Lineage(database=database, family=family, prefix=prefix),
            read_own_columns=database.read_own_columns,
            benchmark=Benchmark(
                database=database, family=family, session_ids=session_ids, prefix=prefix
            ),
            read_promotion_rows=read_promotion_rows,
            read_digest=read_digest,
            ledger=RunLedger(
                database=database, run_id=started.training_run_id, session_ids=session_ids
            ),
        )
