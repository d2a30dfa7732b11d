"""The doctor: finds what crashes have left in the stores and folders, and repairs it.

It looks without MLflow where the store is a local file, and opens MLflow for a repair.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tunetrail.deployment.export import exported_root, exported_version
from tunetrail.errors import TunetrailError
from tunetrail.paths import cache_dir
from tunetrail.scratch import abandoned_folders, sweep
from tunetrail.stores.database.ledger import (
    ABANDONED,
    DELETED,
    open_intents,
    present_actor,
    root_line,
    version_in_words,
)
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord, RunState
from tunetrail.stores.processes import ProcessIdentity
from tunetrail.stores.runs.survey import LoggedModelFiles, StoreSurvey

if TYPE_CHECKING:
    from tunetrail.deployment.root_moves import RootMoves


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
        store: Reads the MLflow store; None if it doesn't exist.
        model_dir: Folder of the exported models.
        output_dir: Folder of the runs.
    """

    database: DatabaseManager
    store: StoreSurvey | None
    model_dir: Path
    output_dir: Path

    def findings(self) -> list[Finding]:
        """Return what is wrong: moves and roots first, since later repairs follow from them."""
        findings = list(self._dead_runs())
        if self.store is not None:
            running = self.store.running()
            dead = [run_id for run_id, process in running.items() if _is_dead(process)]
            live = running.keys() - dead
            findings += self._dead_tracked_runs(self.store, dead)
            for name in registered_names(self.database):
                findings += self._roots(self.store, name, live)
            findings += self._unused_models(self.store, live)
        return [*findings, *self._leftovers()]

    def _dead_runs(self) -> Iterator[Finding]:
        for run in self.database.training_runs():
            is_unfinished = run.state in (RunState.PENDING, RunState.RUNNING)
            if is_unfinished and run.process.is_dead():
                yield Finding(
                    text=f"training run {run.run_id} is {run.state}, but its process is dead",
                    repair=self.database.mark_interrupted_runs,
                )

    def _dead_tracked_runs(self, store: StoreSurvey, dead: Sequence[str]) -> Iterator[Finding]:
        for run_id in dead:
            yield Finding(
                text=f"MLflow run {run_id} is running, but its process is dead",
                repair=partial(_interrupt, store, run_id),
            )

    def _roots(self, store: StoreSurvey, name: str, live: Collection[str]) -> Iterator[Finding]:
        """Yield where ledger, registry and exported folder of a model don't agree."""
        lines, root = self.database.ledger_lines(name), store.root_version(name)

        def settle() -> None:
            self._moves(store, name).settle()

        for intent in open_intents(lines):
            is_deletion = intent.decision == DELETED
            action = "the deletion of" if is_deletion else "a move to"
            yield Finding(
                text=f"root of {name}: {action} {intent.version} has no decision", repair=settle
            )

        line = root_line(lines)
        known = None if line is None else line.version
        if root is None and known is not None:
            yield Finding(
                text=f"root of {name} is {version_in_words(known)} by the ledger, and none in "
                "MLflow",
                advice=f"`tunetrail root rollback {name} [VERSION] --reason TEXT` names another; "
                "with `base` as the VERSION, there is none until the next training",
            )
        elif root != known:
            yield Finding(
                text=f"root of {name} is {version_in_words(known)} by the ledger, "
                f"{version_in_words(root)} in MLflow",
                repair=settle,
            )
        yield from self._exported(store, name, root)
        yield from self._undecided(store, name, lines, live)

    def _moves(self, store: StoreSurvey, name: str) -> "RootMoves":
        """Open MLflow, by which a repair moves root."""
        from tunetrail.deployment.root_alias import RootAlias
        from tunetrail.deployment.root_moves import RootMoves

        alias = RootAlias(tracker=store.tracker, name=name)
        return RootMoves(alias=alias, model_dir=self.model_dir, database=self.database)

    def _exported(self, store: StoreSurvey, name: str, root: str | None) -> Iterator[Finding]:
        link = exported_root(self.model_dir, name)
        # A model directory that has never had this model needs none.
        if not link.parent.is_dir():
            return

        if link.exists() and not link.is_symlink():
            yield Finding(
                text=f"{link} is a folder of its own, not the link to root",
                advice=f"move it away: mv {link} {link}-before",
            )
            return

        exported = exported_version(self.model_dir, name)
        if exported != root or (root is not None and not link.exists()):
            yield Finding(
                text=f"{link} is {version_in_words(exported)}, and root is "
                f"{version_in_words(root)}",
                repair=lambda: self._moves(store, name).export(root),
            )

    def _undecided(
        self,
        store: StoreSurvey,
        name: str,
        lines: Sequence[PromotionRecord],
        live: Collection[str],
    ) -> Iterator[Finding]:
        """Yield the versions on which the ledger has no decision, and whose runs have ended."""
        # An intent without a decision is a finding of its own.
        decided = {line.version for line in lines}
        for version, run_id in store.versions(name).items():
            if version in decided or run_id in live:
                continue
            yield Finding(
                text=f"{name}/{version} has no decision: its run ended before one",
                repair=partial(self._abandon, store, name, version, run_id),
            )

    def _abandon(self, store: StoreSurvey, name: str, version: str, run_id: str | None) -> None:
        from tunetrail.deployment.root_moves import decision_tags

        resume = f"`tunetrail resume {run_id}` decides on it" if run_id else "train again"
        reason = f"the run ended before the gate decided; {resume}"
        record = PromotionRecord(
            model_name=name,
            version=version,
            decision=ABANDONED,
            reason=reason,
            mlflow_run_id=run_id,
            actor=present_actor(),
        )
        self.database.record_promotion(record)
        self._moves(store, name).alias.tag(version, decision_tags(ABANDONED, reason))

    def _unused_models(self, store: StoreSurvey, live: Collection[str]) -> Iterator[Finding]:
        """Yield the logged models of runs that died before they registered a version."""
        names = registered_names(self.database)
        registered = {line.mlflow_run_id for line in self.database.ledger_lines()}
        for name in names:
            registered.update(store.versions(name).values())
        # A run of the ledger had a version: if somebody deleted that, the model may be wanted yet.
        for model in store.logged_models():
            is_of_live_run = model.run_id in live
            if model.name in names and not is_of_live_run and model.run_id not in registered:
                yield Finding(
                    text=f"logged model {model.model_id} of {model.name} belongs to no version",
                    repair=partial(_delete_model, store, model),
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


def _is_dead(process: ProcessIdentity | None) -> bool:
    """Tell whether the process of a run is certainly gone."""
    return process is not None and process.is_dead()


def _interrupt(store: StoreSurvey, run_id: str) -> None:
    """Mark the run of a dead process as interrupted."""
    store.tracker.run(run_id).finish("interrupted", "the process ended unexpectedly")


def _delete_model(store: StoreSurvey, model: LoggedModelFiles) -> None:
    """Delete a logged model, and its files if they are on this machine."""
    from tunetrail.stores.tracking.tracking_errors import tracking_errors

    location = urlsplit(model.location)
    if location.scheme in ("", "file"):
        shutil.rmtree(url2pathname(location.path), ignore_errors=True)
    with tracking_errors(store.tracker.config.uri):
        store.tracker.client.delete_logged_model(model.model_id)
