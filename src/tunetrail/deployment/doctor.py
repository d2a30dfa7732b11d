"""The doctor: finds what crashes have left in the stores and folders, and repairs it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.entities import LoggedModel

from tunetrail.deployment.export import exported_root, exported_version
from tunetrail.deployment.root_alias import RootAlias, in_words
from tunetrail.deployment.root_moves import RootMoves, decision_tags
from tunetrail.errors import TunetrailError
from tunetrail.paths import cache_dir
from tunetrail.scratch import abandoned_folders, sweep
from tunetrail.stores.database import DatabaseManager, PromotionRecord, RunState
from tunetrail.stores.ledger import ABANDONED, DELETED, open_intents, present_actor, root_line
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.tracking import BATCH, Tracker, tracking_errors


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        text: What was found.
        repair: Repairs it; None if a person has to decide.
        advice: What to do, if a person has to decide.
    """

    text: str
    repair: Callable[[], Any] | None = None
    advice: str = ""


def registered_names(database: DatabaseManager) -> list[str]:
    """Return the registered models that the ledger knows, in alphabetical order."""
    return sorted({line.model_name for line in database.ledger_lines()})


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examines the stores and the folders of a workplace.

    Attributes:
        database: Holds runs and ledger.
        tracker: The MLflow store; None if it doesn't exist.
        model_dir: Folder of the exported models.
        output_dir: Folder of the runs.
    """

    database: DatabaseManager
    tracker: Tracker | None
    model_dir: Path
    output_dir: Path

    def findings(self) -> list[Finding]:
        """Return what is wrong: moves and roots first, since later repairs follow from them."""
        findings = list(self._dead_runs())
        if self.tracker is not None:
            findings += self._dead_tracked_runs(self.tracker)
            for name in registered_names(self.database):
                findings += self._roots(self.tracker, name)
            findings += self._unused_models(self.tracker)
        return [*findings, *self._leftovers()]

    def _dead_runs(self) -> Iterator[Finding]:
        for run in self.database.training_runs():
            is_unfinished = run.state in (RunState.PENDING, RunState.RUNNING)
            if is_unfinished and run.process.is_dead():
                yield Finding(
                    text=f"training run {run.run_id} is {run.state}, but its process is dead",
                    repair=self.database.mark_interrupted_runs,
                )

    def _dead_tracked_runs(self, tracker: Tracker) -> Iterator[Finding]:
        for run_id in _running(tracker, dead=True):
            yield Finding(
                text=f"MLflow run {run_id} is running, but its process is dead",
                repair=partial(
                    tracker.run(run_id).finish, "interrupted", "the process ended unexpectedly"
                ),
            )

    def _roots(self, tracker: Tracker, name: str) -> Iterator[Finding]:
        """Yield where ledger, registry and exported folder of a model don't agree."""
        alias = RootAlias(tracker=tracker, name=name)
        moves = RootMoves(alias=alias, model_dir=self.model_dir, database=self.database)
        lines, root = moves.lines(), alias.version()
        for intent in open_intents(lines):
            is_deletion = intent.decision == DELETED
            action = "the deletion of" if is_deletion else "a move to"
            yield Finding(
                text=f"root of {name}: {action} {intent.version} has no decision",
                repair=moves.settle,
            )

        line = root_line(lines)
        known = None if line is None else line.version
        if root is None and known is not None:
            yield Finding(
                text=f"root of {name} is {in_words(known)} by the ledger, and none in MLflow",
                advice=f"`tunetrail root rollback {name} [VERSION] --reason TEXT` names another",
            )
        elif root != known:
            yield Finding(
                text=f"root of {name} is {in_words(known)} by the ledger, {in_words(root)} in "
                "MLflow",
                repair=moves.settle,
            )
        yield from self._exported(moves, root)
        yield from self._undecided(moves, lines)

    def _exported(self, moves: RootMoves, root: str | None) -> Iterator[Finding]:
        link = exported_root(self.model_dir, moves.name)
        # A model directory that has never had this model needs none.
        if not link.parent.is_dir():
            return

        if link.exists() and not link.is_symlink():
            yield Finding(
                text=f"{link} is a folder of its own, not the link to root",
                advice=f"move it away: mv {link} {link}-before",
            )
            return

        exported = exported_version(self.model_dir, moves.name)
        if exported != root or (root is not None and not link.exists()):
            yield Finding(
                text=f"{link} is {in_words(exported)}, and root is {in_words(root)}",
                repair=partial(moves.export, root),
            )

    def _undecided(self, moves: RootMoves, lines: list[PromotionRecord]) -> Iterator[Finding]:
        """Yield the versions on which the ledger has no decision, and whose runs have ended."""
        tracker = moves.alias.tracker
        # An intent without a decision is a finding of its own.
        decided = {line.version for line in lines}
        running = set(_running(tracker, dead=False))
        with tracking_errors(tracker.config.uri):
            versions = tracker.client.search_model_versions(f"name = '{moves.name}'")
        for version in versions:
            version_number, run_id = str(version.version), version.run_id or None
            if version_number in decided or run_id in running:
                continue
            yield Finding(
                text=f"{moves.name}/{version_number} has no decision: its run ended before one",
                repair=partial(_abandon, moves, version_number, run_id),
            )

    def _unused_models(self, tracker: Tracker) -> Iterator[Finding]:
        """Yield the logged models of runs that died before they registered a version."""
        running = set(_running(tracker, dead=False))
        names = registered_names(self.database)
        registered = {line.mlflow_run_id for line in self.database.ledger_lines()}
        with tracking_errors(tracker.config.uri):
            for name in names:
                for version in tracker.client.search_model_versions(f"name = '{name}'"):
                    registered.add(version.run_id)
            models = tracker.client.search_logged_models([tracker.experiment_id])
        # A run of the ledger had a version: if somebody deleted that, the model may be wanted yet.
        for model in models:
            is_of_live_run = model.source_run_id in running
            if model.name in names and not is_of_live_run and model.source_run_id not in registered:
                yield Finding(
                    text=f"logged model {model.model_id} of {model.name} belongs to no version",
                    repair=partial(_delete_model, tracker, model),
                )

    def _leftovers(self) -> Iterator[Finding]:
        for parent in scratch_parents(self.model_dir, self.output_dir):
            for folder in abandoned_folders(parent):
                text = f"{folder} was left by a dead process"
                yield Finding(text=text, repair=partial(sweep, parent))


def scratch_parents(model_dir: Path, output_dir: Path) -> list[Path]:
    """Return the folders in which unfinished files are written."""
    parents = [cache_dir() / "models", Path(tempfile.gettempdir()), model_dir, output_dir]
    runs = [*output_dir.glob("*"), *output_dir.glob("*/prepared")]
    return [*parents, *model_dir.glob("*/versions"), *runs]


def repair_all(findings: list[Finding]) -> list[str]:
    """Repair what can be repaired; return why something couldn't be, in words."""
    failures = []
    for finding in findings:
        if finding.repair is None:
            continue
        try:
            finding.repair()
        except TunetrailError as error:
            failures.append(f"{finding.text}: {error}")
    return failures


def _running(tracker: Tracker, *, dead: bool) -> Iterator[str]:
    """Yield the ids of running runs of all experiments whose processes are dead, or aren't."""
    with tracking_errors(tracker.config.uri):
        experiments = [
            experiment.experiment_id for experiment in tracker.client.search_experiments()
        ]
        runs = tracker.client.search_runs(
            experiments, "attributes.status = 'RUNNING'", max_results=BATCH
        )
    for run in runs:
        process = ProcessIdentity.from_tags(run.data.tags)
        if (process is not None and process.is_dead()) == dead:
            yield run.info.run_id


def _abandon(moves: RootMoves, version: str, run_id: str | None) -> None:
    resume = f"`tunetrail resume {run_id}` decides on it" if run_id else "train again"
    reason = f"the run ended before the gate decided; {resume}"
    record = PromotionRecord(
        model_name=moves.name,
        version=version,
        decision=ABANDONED,
        reason=reason,
        mlflow_run_id=run_id,
        actor=present_actor(),
    )
    moves.database.record_promotion(record)
    moves.alias.tag(version, decision_tags(ABANDONED, reason))


def _delete_model(tracker: Tracker, model: LoggedModel) -> None:
    """Delete a logged model, and its files if they are on this machine."""
    location = urlsplit(model.artifact_location)
    if location.scheme in ("", "file"):
        shutil.rmtree(url2pathname(location.path), ignore_errors=True)
    with tracking_errors(tracker.config.uri):
        tracker.client.delete_logged_model(model.model_id)
