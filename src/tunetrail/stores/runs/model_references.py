"""References to models that were scored: a run, a version or an alias, resolved to MLflow runs."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from tunetrail.config import BASE
from tunetrail.errors import UserError
from tunetrail.nearest_words import nearest_words
from tunetrail.stores.runs.quick_runs import NAMED_VERSION
from tunetrail.stores.tracking.mlflow_answers import is_absent
from tunetrail.stores.tracking.tracked_runs import CLEANED_TAG
from tunetrail.stores.tracking.tracker import BATCH, Tracker, tracking_errors

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_BEGINNING = re.compile(r"[0-9a-f]{4,31}")
_SHOWN_NAMES = 3
_MODEL_FORMS = (
    "model must be a run's id or name, a version such as embedding/3, an alias such as "
    "embedding@root, or base"
)
_RUN_FORMS = (
    "run must be a run's id or name, a version such as embedding/3, or an alias such as "
    "embedding@root"
)
# What is said of a run that wasn't evaluated, by its state.
_STATES = {
    "succeeded": "ended before its evaluation",
    "finished": "ended before its evaluation",
    "failed": "failed",
    "killed": "was interrupted",
    "interrupted": "was interrupted",
}


# A run, and the ids of the runs with its scores by model type.
_ScoredRun = tuple[Run, dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class ModelReference:
    """A model that a user named.

    Attributes:
        name: The reference as the user typed it.
        run_ids: The runs that scored it, by model type; empty for the base model.
        aliases: Names by which other runs' files say that they compared with it: the URIs of its
            versions, or `base`.
    """

    name: str
    run_ids: dict[str, str] = field(default_factory=dict)
    aliases: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """A run that a user named, and the runs of its model types that were evaluated.

    Attributes:
        run_id: The id of the run that was named.
        name: Its name.
        started: When it started, in milliseconds since 1970; None if unknown.
        run_ids: The evaluated runs by model type: the run itself, or the ones below it.
    """

    run_id: str
    name: str
    started: int | None
    run_ids: dict[str, str]


def find_evaluated_run(tracker: Tracker, reference: str, artifact: str) -> EvaluatedRun:
    """Return the evaluated run that a reference names.

    Args:
        tracker: The MLflow store.
        reference: The id or the name of a run, of a pipeline or of one model type; a version
            (`NAME/3` or `models:/NAME/3`); or an alias (`NAME@root`).
        artifact: Path of the artifact that a run has if it was evaluated.

    Raises:
        UserError: There is no such run, several have the name, or it wasn't evaluated.
    """
    with tracking_errors(tracker.config.uri):
        runs = _find_runs(tracker, reference, _RUN_FORMS)
        evaluated = _with_scores(tracker, runs, artifact)
    if not evaluated:
        _check_not_cleaned("run", runs[0], reference)
        raise UserError(_not_evaluated(runs[0], reference))
    run, run_ids = _only_one("run", reference, evaluated)
    return EvaluatedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
        started=run.info.start_time,
        run_ids=run_ids,
    )


def _check_not_cleaned(field_name: str, run: Run, reference: str) -> None:
    """Raise `UserError` if the scores of a run's rows were removed to free the disk."""
    reason = run.data.tags.get(CLEANED_TAG)
    if reason is not None:
        raise UserError(
            f"{field_name} must have scores of its rows, got {reference!r}, whose artifacts were "
            f"removed ({reason}). `tunetrail runs` still has its metrics."
        )


def _not_evaluated(run: Run, reference: str) -> str:
    """Return why a run has nothing to show, in one line."""
    tags, run_id = run.data.tags, run.info.run_id
    state = tags.get("tunetrail.state", run.info.status.lower())
    reason = " ".join(tags.get("tunetrail.reason", "").split())
    cause = f", which {_STATES.get(state, f'is {state}')}{f': {reason}' if reason else ''}"
    advice = (
        "Wait until it has ended."
        if state == "running"
        else (f"Continue it with `tunetrail resume {run_id}`, or train again.")
    )
    return f"run must have been evaluated, got {reference!r}{cause}. {advice}"


def _find_runs(tracker: Tracker, reference: str, forms: str) -> list[Run]:
    """Return the runs that a reference names; raises `UserError` with its forms if none."""
    version = find_version(tracker, reference)
    runs = _named_runs(tracker, reference) if version is None else _run_of(tracker, version)
    if not runs:
        raise UserError(_not_found(tracker, reference, forms))
    return runs


def _with_scores(tracker: Tracker, runs: list[Run], artifact: str) -> list[_ScoredRun]:
    """Return the runs that have scores, with the ids of these by model type."""
    scored = []
    for run in runs:
        run_ids = _scored_runs(tracker, run, artifact)
        if run_ids:
            scored.append((run, run_ids))
    return scored


def _only_one(field_name: str, reference: str, scored: list[_ScoredRun]) -> _ScoredRun:
    """Return the only run; raises `UserError` if a name stands for several."""
    if len(scored) > 1:
        shown = ", ".join(run.info.run_id for run, _ in scored[:_SHOWN_NAMES])
        raise UserError(
            f"{field_name} must be one run, got {reference!r}, the name of {len(scored)} runs. "
            f"Name it by its id: {shown}."
        )
    return scored[0]


def find_model(tracker: Tracker, reference: str, artifact: str) -> ModelReference:
    """Return the model that a reference names, and the runs that scored it.

    Args:
        tracker: The MLflow store.
        reference: The id or the name of a run, of a pipeline or of one model type; a version
            (`NAME/3` or `models:/NAME/3`); an alias (`NAME@root`); or `base`.
        artifact: Path of the artifact that a run has if it scored models.

    Raises:
        UserError: There is no such model, several have the name, or no scores were kept.
    """
    if reference == BASE:
        return ModelReference(name=BASE, aliases=frozenset({BASE}))

    with tracking_errors(tracker.config.uri):
        runs = _find_runs(tracker, reference, _MODEL_FORMS)
        scored = _with_scores(tracker, runs, artifact)
        if not scored:
            _check_not_cleaned("model", runs[0], reference)
            raise UserError(
                f"model must be a run with the artifact {artifact}, got {reference!r} without it: "
                "the run ended before its evaluation, or an older version of tunetrail made it. "
                "Train again."
            )
        _, run_ids = _only_one("model", reference, scored)
        aliases = {version_uri(version) for version in _versions_of(tracker, run_ids.values())}
    return ModelReference(name=reference, run_ids=run_ids, aliases=frozenset(aliases))


def version_uri(version: ModelVersion) -> str:
    """Return `models:/name/version`."""
    return f"models:/{version.name}/{version.version}"


def find_version(tracker: Tracker, reference: str) -> ModelVersion | None:
    """Return the version that a reference names; None if it names no version or alias."""
    match = NAMED_VERSION.fullmatch(reference)
    if match is None:
        return None
    name, version, alias = match["name"], match["version"], match["alias"]
    try:
        if alias is not None:
            return tracker.client.get_model_version_by_alias(name, alias)
        return tracker.client.get_model_version(name, version)
    except MlflowException as error:
        if is_absent(tracker.client, name, error):
            return None
        raise


def _run_of(tracker: Tracker, version: ModelVersion) -> list[Run]:
    """Return the run that registered a version."""
    run = tracker.find_run(version.run_id) if version.run_id else None
    if run is None:
        raise UserError(
            f"model must be a version whose run is in MLflow, got {version_uri(version)}, whose "
            f"run {version.run_id or '(none)'} is gone. Restore the run, or train again."
        )
    return [run]


def _named_runs(tracker: Tracker, reference: str) -> list[Run]:
    """Return the run of that id, the runs of that name, or those whose id begins like that."""
    run = tracker.find_run(reference) if _RUN_ID.fullmatch(reference) else None
    if run is not None:
        return [run]
    # MLflow's filters can't escape a quotation mark.
    if '"' in reference:
        return []
    named = _search_runs(tracker, f'attributes.run_name = "{reference}"')
    if named or not _BEGINNING.fullmatch(reference):
        return named
    return _search_runs(tracker, f"attributes.run_id LIKE '{reference}%'")


def _search_runs(tracker: Tracker, condition: str) -> list[Run]:
    """Return the newest runs of all experiments that fulfil a condition."""
    experiments = [experiment.experiment_id for experiment in tracker.client.search_experiments()]
    newest_first = ["attributes.start_time DESC"]
    return list(
        tracker.client.search_runs(experiments, condition, order_by=newest_first, max_results=BATCH)
    )


def _scored_runs(tracker: Tracker, run: Run, artifact: str) -> dict[str, str]:
    """Return the ids of the runs with scores, by model type: the run itself, or its children."""

    def has_scores(run: Run) -> bool:
        folder = artifact.rpartition("/")[0]
        return artifact in tracker.run(run.info.run_id).artifacts(folder)

    # Below a run that has scores are only its folds.
    candidates = [run] if has_scores(run) else tracker.children(run.info.run_id)
    scored = {}
    for candidate in filter(has_scores, candidates):
        model_type = candidate.data.tags.get("tunetrail.model_type", "unknown")
        scored[model_type] = candidate.info.run_id
    return scored


def _versions_of(tracker: Tracker, run_ids: Iterable[str]) -> list[ModelVersion]:
    versions: list[ModelVersion] = []
    for run_id in run_ids:
        versions += tracker.client.search_model_versions(f"run_id = '{run_id}'")
    return versions


def _not_found(tracker: Tracker, reference: str, forms: str) -> str:
    """Return the message for an unknown run or model, with the nearest known names."""
    names = dict.fromkeys([BASE] if forms == _MODEL_FORMS else [])
    for model in tracker.client.search_registered_models(max_results=_SHOWN_NAMES * 10):
        names |= dict.fromkeys(f"{model.name}@{alias}" for alias in model.aliases)
        is_of_model = f"name = '{model.name}'"
        versions: Any = tracker.client.search_model_versions(is_of_model, max_results=BATCH)
        names |= dict.fromkeys(f"{model.name}/{version.version}" for version in versions)
    for run in _search_runs(tracker, ""):
        names |= dict.fromkeys([run.info.run_name, run.info.run_id])

    nearest = nearest_words(reference, map(str, names), most=_SHOWN_NAMES)
    hint = f"Did you mean {' or '.join(map(repr, nearest))}?"
    if not nearest:
        hint = "`tunetrail ui` shows the runs and the versions."
    return f"{forms}, got {reference!r}. {hint}"
