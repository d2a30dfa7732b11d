"""Retention: which versions of a model stay, why, and the deletion of the others."""

import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property

from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tunetrail.config import BASE
from tunetrail.deployment.deletion import remove_version, version_parts
from tunetrail.deployment.root_moves import RootMoves
from tunetrail.errors import DeploymentError, TunetrailError
from tunetrail.stores.database.ledger import (
    DECISION,
    DELETED,
    FORBIDDEN,
    INTENT,
    MOVES,
    WAITING,
    open_intents,
    present_actor,
)
from tunetrail.stores.database.manager import PromotionRecord, RunState, TrainingRun
from tunetrail.stores.tracking.run_tags import TRAINING_RUN_TAG
from tunetrail.stores.tracking.tracker import Tracker, tracking_errors

_RESUMABLE = (RunState.FAILED, RunState.INTERRUPTED, RunState.FITTED)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Retention:
    """The versions of one model, those that stay and those that go.

    Attributes:
        moves: Root of the model.
        keep_versions: How many versions stay, if no more are needed.
        keep_days: For how many days a run that has failed or was stopped may be resumed.
    """

    moves: RootMoves
    keep_versions: int
    keep_days: int

    @cached_property
    def versions(self) -> list[ModelVersion]:
        """The versions in MLflow, newest first."""
        tracker = self.moves.alias.tracker
        with tracking_errors(tracker.config.uri):
            versions = tracker.client.search_model_versions(f"name = '{self.moves.name}'")
        return sorted(versions, key=lambda version: int(version.version), reverse=True)

    @cached_property
    def kept(self) -> Mapping[str, str]:
        """The versions that stay, by number, with the reason."""
        reasons: dict[str, str] = {}
        for version, reason in self._needed():
            reasons.setdefault(version, reason)

        present = [str(version.version) for version in self.versions]
        kept = {version: reasons[version] for version in present if version in reasons}
        doomed = {intent.version for intent in self._open_deletions()}
        for version in present:
            if len(kept) < self.keep_versions and version not in doomed:
                kept.setdefault(version, f"among the newest, of which {self.keep_versions} stay")
        return kept

    def deletable(self) -> list[ModelVersion]:
        """Return the versions that go, oldest first."""
        return [version for version in reversed(self.versions) if self._goes(version)]

    def delete(self, version: ModelVersion, reason: str) -> None:
        """Delete a version with its files, and write that to the ledger.

        Args:
            version: One of `deletable`.
            reason: Why, for the ledger.

        Raises:
            DeploymentError: The version is needed by now, or its files can't be removed.
        """
        with self.moves.locked():
            # Read again: root may have moved since.
            present = replace(self)
            if str(version.version) in present.kept:
                why_needed = present.kept[str(version.version)]
                raise DeploymentError(
                    f"{self.moves.name}/{version.version} must not be needed to be deleted, got "
                    f"one that is ({why_needed}). It stays."
                )
            # A deletion that a kill had interrupted: whoever takes the lock finishes it.
            if self.moves.alias.find(str(version.version)) is None:
                return
            record = self._record(version, reason)
            self.moves.database.record_promotion(replace(record, event=INTENT))
            remove_version(self.moves.alias.tracker, version, reason)
            self.moves.database.record_promotion(record)

    def _open_deletions(self) -> list[PromotionRecord]:
        """Return the intents of deletions that a kill has interrupted."""
        intents = open_intents(self.moves.lines())
        return [intent for intent in intents if intent.decision == DELETED]

    def _record(self, version: ModelVersion, reason: str) -> PromotionRecord:
        return PromotionRecord(
            model_name=self.moves.name,
            version=str(version.version),
            decision=DELETED,
            reason=reason,
            mlflow_run_id=version.run_id or None,
            move_id=uuid.uuid4().hex,
            actor=present_actor(),
        )

    def _goes(self, version: ModelVersion) -> bool:
        return str(version.version) not in self.kept

    def _needed(self) -> Iterator[tuple[str, str]]:
        """Yield the versions that something needs, with the reason, the strongest reason first."""
        moves, lines = self.moves, self.moves.lines()
        root = moves.alias.version()
        if root is not None:
            yield root, "root"
        previous = moves.previous()
        if previous is not None:
            yield previous, "the root that a rollback goes back to"
        yield from _last_move(lines)
        for intent in open_intents(lines):
            if intent.decision != DELETED:
                yield intent.version, "a move of root to it isn't finished"

        if self.versions:
            yield str(self.versions[0].version), "the newest"
        decided = {line.version: line for line in lines if _decides(line)}
        for version in self.versions:
            version_number = str(version.version)
            if version_number not in decided:
                yield version_number, "nothing is decided on it yet"
            elif decided[version_number].decision == WAITING:
                yield version_number, "waits for an approval"
        yield from self._with_alias()
        yield from self._needed_by_runs(lines)

    def _with_alias(self) -> Iterator[tuple[str, str]]:
        """Yield the versions that somebody gave an alias in MLflow."""
        if not self.versions:
            return
        tracker = self.moves.alias.tracker
        with tracking_errors(tracker.config.uri):
            # Versions that were searched for don't tell their aliases.
            model = tracker.client.get_registered_model(self.moves.name)
        for alias, version in model.aliases.items():
            yield str(version), f"has the alias {alias}"

    def _needed_by_runs(self, lines: Sequence[PromotionRecord]) -> Iterator[tuple[str, str]]:
        """Yield the versions of runs that go on or can be resumed, and those they started from."""
        unfinished = {run.run_id: run for run in self._unfinished_runs()}
        for run in unfinished.values():
            start = _root_at(lines, run.created_at)
            if start is not None:
                yield start, f"the run {run.mlflow_run_id or run.run_id} started from it"
        # Without one, MLflow needn't be asked for the run of each version.
        if not unfinished:
            return
        for version in self.versions:
            run_id = _training_run_of(self.moves.alias.tracker, version.run_id)
            if run_id in unfinished:
                state = unfinished[run_id].state
                yield str(version.version), f"its run is {state} and can be resumed"

    def _unfinished_runs(self) -> Iterator[TrainingRun]:
        for run in self.moves.database.training_runs():
            if is_running(run) or is_resumable(run, self.keep_days):
                yield run


def is_running(run: TrainingRun) -> bool:
    """Tell whether a run has not ended, as far as the database knows."""
    return run.state in (RunState.PENDING, RunState.RUNNING)


def is_resumable(run: TrainingRun, keep_days: int) -> bool:
    """Tell whether a run has ended without a decision, and not too long ago to be resumed."""
    age = datetime.now(UTC) - run.updated_at
    return run.state in _RESUMABLE and age <= timedelta(days=keep_days)


def apply_retention(moves: RootMoves, keep_versions: int, keep_days: int) -> None:
    """Delete the versions that needn't stay, and say what went; a failure fails nothing.

    Args:
        moves: Root of the model.
        keep_versions: As in `Retention`.
        keep_days: As in `Retention`.
    """
    reason = f"retention.keep_versions={keep_versions}"
    try:
        retention = Retention(moves=moves, keep_versions=keep_versions, keep_days=keep_days)
        for version in retention.deletable():
            size = sum(version_parts(moves.alias.tracker, version).sizes().values())
            retention.delete(version, reason)
            logger.warning(
                "%s/%s deleted, %.1f MB freed (%s)",
                moves.name,
                version.version,
                size / 1e6,
                reason,
            )

    # What was trained is safe, and the next run or `tunetrail clean` deletes it.
    except TunetrailError as error:
        logger.warning("%s: retention deleted not all that it may: %s", moves.name, error)


def _decides(line: PromotionRecord) -> bool:
    """Tell whether a line decides on a version as a candidate."""
    return line.event == DECISION and line.decision not in (FORBIDDEN, DELETED)


def _last_move(lines: Sequence[PromotionRecord]) -> Iterator[tuple[str, str]]:
    """Yield the versions of the ledger's newest move of root."""
    for line in reversed(lines):
        if line.event == DECISION and line.decision in MOVES:
            for version in (line.version, line.previous_version):
                if version not in (None, BASE):
                    yield str(version), "part of the last move of root"
            return


def _root_at(lines: Sequence[PromotionRecord], moment: datetime) -> str | None:
    """Return the version that was root at a moment; None if there was none."""
    root = None
    for line in lines:
        is_move = line.event == DECISION and line.decision in MOVES
        if is_move and line.created_at is not None and line.created_at <= moment:
            root = None if line.version == BASE else line.version
    return root


def _training_run_of(tracker: Tracker, run_id: str | None) -> str | None:
    """Return the id in the database of the training that an MLflow run belongs to."""
    run = tracker.find_run(run_id) if run_id else None
    while run is not None and TRAINING_RUN_TAG not in run.data.tags:
        parent = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
        run = tracker.find_run(parent) if parent else None
    return None if run is None else run.data.tags[TRAINING_RUN_TAG]
