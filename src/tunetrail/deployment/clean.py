"""What can be cleaned up: everything on the disk that no run, no rollback and no resume needs.

An item is listed with its files before anything is removed, so that a dry run and a real run speak
of the same. What the database doesn't know belongs to somebody else, and stays.
"""

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mlflow.entities import LoggedModel, Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from tunetrail.cache import ResultCache
from tunetrail.deployment.deletion import (
    files_of_model,
    model_id_of,
    remove_model,
    version_parts,
)
from tunetrail.deployment.doctor import registered_names, scratch_parents
from tunetrail.deployment.retention import Retention, is_resumable, is_running
from tunetrail.deployment.root_alias import RootAlias
from tunetrail.deployment.root_moves import RootMoves
from tunetrail.errors import TunetrailError
from tunetrail.learning.models.gguf import remove_conversion, unused_conversions
from tunetrail.scratch import abandoned_folders
from tunetrail.stores.database.manager import DatabaseManager, TrainingRun
from tunetrail.stores.tracking.run_tags import TRAINING_RUN_TAG
from tunetrail.stores.tracking.tracked_runs import CLEANED_TAG
from tunetrail.stores.tracking.tracker import Tracker, tracking_errors

_DAY_SECONDS = 24 * 60 * 60
_PAGE = 50
_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that can be removed.

    Attributes:
        kind: `version`, `model`, `checkpoints`, `log`, `cache` or `leftover`.
        name: Its name, or the path of its folder.
        reason: Why nothing needs it.
        sizes: The bytes of its files, by their paths or URIs.
        remove: Removes it.
    """

    kind: str
    name: str
    reason: str
    sizes: Mapping[str, int]
    remove: Callable[[], Any]

    @property
    def bytes(self) -> int:
        """The bytes of all its files."""
        return sum(self.sizes.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the item as plain values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "reason": self.reason,
            "bytes": self.bytes,
            "files": sorted(self.sizes),
        }


@dataclass(frozen=True, kw_only=True)
class Cleaner:
    """Finds what a workplace doesn't need any more.

    Attributes:
        database: Holds runs and ledger.
        tracker: The MLflow store; None if it doesn't exist.
        model_dir: Folder of the exported models.
        output_dir: Folder of the runs that can be resumed, and of logs.
        cache: The cached results.
        keep_versions: How many versions of each model stay, if no more are needed.
        keep_days: For how many days checkpoints, logs and cached results stay.
    """

    database: DatabaseManager
    tracker: Tracker | None
    model_dir: Path
    output_dir: Path
    cache: ResultCache
    keep_versions: int
    keep_days: int

    def items(self) -> list[Item]:
        """Return what can go, versions first."""
        items: list[Item] = []
        if self.tracker is not None:
            for retention in self._retentions:
                items += self._versions(retention)
            items += self._unused_models(self.tracker)
            items += self._checkpoints(self.tracker)
        return [*items, *self._logs(), *self._cached(), *self._leftovers()]

    def kept(self) -> dict[str, str]:
        """Return the versions that stay, with the reason."""
        return {
            f"{retention.moves.name}/{version}": reason
            for retention in self._retentions
            for version, reason in retention.kept.items()
        }

    @cached_property
    def _names(self) -> list[str]:
        """The registered models that the ledger knows."""
        return registered_names(self.database)

    @cached_property
    def _trainings(self) -> dict[str, str | None]:
        """The ids of trainings in the database by the MLflow runs that the database knows."""
        trainings = {
            line.mlflow_run_id: line.run_id
            for line in self.database.ledger_lines()
            if line.mlflow_run_id is not None
        }
        for training in self.database.training_runs():
            if training.mlflow_run_id is not None:
                trainings[training.mlflow_run_id] = training.run_id
        return trainings

    @cached_property
    def _retentions(self) -> list[Retention]:
        if self.tracker is None:
            return []
        retentions = []
        for name in self._names:
            alias = RootAlias(tracker=self.tracker, name=name)
            moves = RootMoves(alias=alias, model_dir=self.model_dir, database=self.database)
            retention = Retention(
                moves=moves, keep_versions=self.keep_versions, keep_days=self.keep_days
            )
            retentions.append(retention)
        return retentions

    def _versions(self, retention: Retention) -> Iterator[Item]:
        name = retention.moves.name
        decisions = {line.version: line.decision for line in retention.moves.lines()}
        for version in retention.deletable():
            version_number = str(version.version)
            reason = f"keep_versions={self.keep_versions}"
            yield Item(
                kind="version",
                name=f"{name}/{version_number}",
                reason=f"{decisions[version_number]}, not among the {self.keep_versions} that stay",
                sizes=version_parts(retention.moves.alias.tracker, version).sizes(),
                remove=partial(retention.delete, version, f"tunetrail clean, {reason}"),
            )

    def _unused_models(self, tracker: Tracker) -> Iterator[Item]:
        """Yield the logged models that belong to no version, such as one deleted in MLflow."""
        registered: set[str | None] = set()
        for retention in self._retentions:
            registered |= {model_id_of(version.source or "") for version in retention.versions}

        for model in _logged_models(tracker):
            if model.name not in self._names or model.model_id in registered:
                continue

            # What another program has logged under the same name isn't touched.
            training = self._training_of(tracker, model.source_run_id)
            is_known = training is not None or model.source_run_id in self._trainings
            if is_known and (training is None or not self._is_needed(training)):
                yield Item(
                    kind="model",
                    name=model.model_id,
                    reason=f"of {model.name}, belongs to no version",
                    sizes=files_of_model(model, tracker.config.uri).sizes(),
                    remove=partial(remove_model, tracker, model),
                )

    def _checkpoints(self, tracker: Tracker) -> Iterator[Item]:
        """Yield the folders of runs that nobody will resume."""
        for folder in _children(self.output_dir):
            if _RUN_ID.fullmatch(folder.name) is None:
                continue
            training = self._training_of(tracker, folder.name)
            if training is None or is_running(training):
                continue

            is_deleted = tracker.find_run(folder.name) is None
            if is_deleted:
                reason = "its run was deleted in MLflow"
            elif not is_resumable(training, self.keep_days):
                reason = f"{training.state} on {training.updated_at.date()}"
            else:
                continue

            remove = partial(_remove_checkpoints, tracker, folder, is_deleted)
            yield _folder_item("checkpoints", folder, reason, remove)

    def _logs(self) -> Iterator[Item]:
        """Yield Hydra's folders of commands from long ago."""
        for folder in _children(self.output_dir / "hydra"):
            times = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
            if time.time() - max(times) > self.keep_days * _DAY_SECONDS:
                reason = f"older than {self.keep_days} days"
                yield _folder_item("log", folder, reason, partial(shutil.rmtree, folder))

    def _cached(self) -> Iterator[Item]:
        for path in self.cache.unfinished():
            reason = "left unfinished by a dead process"
            yield _folder_item("cache", path, reason, partial(self.cache.remove, path))
        for path in self.cache.unused(self.keep_days * _DAY_SECONDS):
            reason = f"not used for {self.keep_days} days"
            yield _folder_item("cache", path, reason, partial(self.cache.remove, path))

        models, seconds = self.cache.folder.parent / "models", self.keep_days * _DAY_SECONDS
        for path in unused_conversions(models, seconds):
            reason = f"not used for {self.keep_days} days; it is converted again when it is needed"
            yield _folder_item("cache", path, reason, partial(remove_conversion, path, seconds))

    def _leftovers(self) -> Iterator[Item]:
        for parent in scratch_parents(self.model_dir, self.output_dir):
            for folder in abandoned_folders(parent):
                remove = partial(shutil.rmtree, folder)
                yield _folder_item("leftover", folder, "left by a dead process", remove)

    def _is_needed(self, training: TrainingRun) -> bool:
        return is_running(training) or is_resumable(training, self.keep_days)

    def _training_of(self, tracker: Tracker, run_id: str | None) -> TrainingRun | None:
        """Return the training that an MLflow run belongs to; None if this database has none."""
        run = _any_run(tracker, run_id)
        # Families and folds are runs below a training's, and only the training has the tag.
        while run is not None and TRAINING_RUN_TAG not in run.data.tags:
            run = _any_run(tracker, run.data.tags.get(MLFLOW_PARENT_RUN_ID))
        # `mlflow gc` may have removed the run for good.
        training_id = (
            self._trainings.get(run_id or "") if run is None else run.data.tags[TRAINING_RUN_TAG]
        )
        return self.database.training_run(training_id) if training_id else None


def remove_all(items: list[Item]) -> tuple[list[Item], list[str]]:
    """Remove the items; return those that went, and for each of the others why it didn't."""
    removed, failures = [], []
    for item in items:
        try:
            item.remove()
        except (TunetrailError, OSError) as error:
            failures.append(f"{item.name}: {error}")
        else:
            removed.append(item)
    return removed, failures


def _folder_item(kind: str, path: Path, reason: str, remove: Callable[[], Any]) -> Item:
    """Return the item of a folder, or of a file."""
    sizes = {}
    for file in (path, *path.rglob("*")):
        # Another process may remove it at this moment.
        with contextlib.suppress(OSError):
            if file.is_symlink() or not file.is_dir():
                sizes[str(file)] = file.lstat().st_size
    return Item(kind=kind, name=str(path), reason=reason, sizes=sizes, remove=remove)


def _remove_checkpoints(tracker: Tracker, folder: Path, is_deleted: bool) -> None:
    shutil.rmtree(folder)
    # MLflow refuses tags of a run in its trash.
    if not is_deleted:
        tag = {CLEANED_TAG: "its checkpoints were removed by tunetrail clean"}
        tracker.run(folder.name).set_tags(tag)


def _children(folder: Path) -> list[Path]:
    """Return the folders in a folder; none if it doesn't exist or is a link somewhere else."""
    try:
        children = sorted(folder.iterdir())
    except OSError:
        return []
    return [child for child in children if child.is_dir() and not child.is_symlink()]


def _any_run(tracker: Tracker, run_id: str | None) -> Run | None:
    """Return a run of MLflow, also one in its trash; None if it doesn't exist."""
    return tracker.find_run_or_trash(run_id) if run_id else None


def _logged_models(tracker: Tracker) -> Iterator[LoggedModel]:
    """Yield the logged models of all experiments."""
    with tracking_errors(tracker.config.uri):
        experiments = [
            experiment.experiment_id for experiment in tracker.client.search_experiments()
        ]
        token = None
        while True:
            page = tracker.client.search_logged_models(
                experiments, max_results=_PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return
