"""Requests: a request to the node is checked, and so is the session that it names."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tunetrail.config import Settings, checked_session_ids
from tunetrail.config.checks import check
from tunetrail.errors import ConfigError, SampleError, SessionError, did_you_mean
from tunetrail.pipeline.families import ALL_FAMILIES, requested_families
from tunetrail.pipeline.general_file import GeneralFile, read_general_file
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.samples import shape_named
from tunetrail.stores.database.manager import DatabaseManager, SessionSummary

_log = logging.getLogger(__name__)
_KEYS = ("session_id", "model_type")


def checked_request(request: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    """Return the sessions and the model type of a request.

    Raises:
        ConfigError: A key is unknown, or a value isn't allowed.
    """
    for key in request:
        if key not in _KEYS:
            raise ConfigError(f"the request has no key {key!r}.{did_you_mean(str(key), _KEYS)}")
    if "session_id" not in request:
        raise ConfigError("session_id must be given. `tunetrail sessions` lists them.")

    session_ids = checked_session_ids(request["session_id"])
    model_type = str(request.get("model_type", ALL_FAMILIES))
    requested_families(model_type)
    return session_ids, model_type


def summaries_of(database: DatabaseManager, session_ids: Sequence[str]) -> list[SessionSummary]:
    """Return the summaries of sessions; raises `SessionError` for an unknown one."""
    return [database.session_summary(session_id) for session_id in session_ids]


def trained_model_type(summaries: Sequence[SessionSummary], model_type: str) -> str:
    """Return the model type to train: for `all`, the only family that has samples, if it is one.

    Args:
        summaries: The sessions.
        model_type: The model type of the request.
    """
    kinds = {kind for summary in summaries for kind, count in summary.samples.items() if count}
    with_samples = [family for family in requested_families(model_type) if family.kind in kinds]
    if model_type != ALL_FAMILIES or len(with_samples) != 1:
        return model_type

    only = with_samples[0].name
    sessions = ", ".join(summary.session_id for summary in summaries)
    _log.warning(
        "%s: all samples are of one kind, so only model_type=%s is trained", sessions, only
    )
    return only


def single_family(summaries: Sequence[SessionSummary], model_type: str) -> ModelFamily:
    """Return the one family that a job of a sweep trains, as jobs are compared by one metric.

    Args:
        summaries: The sessions.
        model_type: The model type; `all` stands for the only family with samples in the sessions.

    Raises:
        ConfigError: The sessions have samples of several families, and none is chosen.
    """
    families = requested_families(model_type)
    kinds = {kind for summary in summaries for kind, count in summary.samples.items() if count}
    with_samples = [family for family in families if family.kind in kinds]
    names = [family.name for family in with_samples]
    check(
        len(names) <= 1,
        "model_type",
        f"one of {', '.join(names)} in a sweep, whose jobs are compared by one metric",
        model_type,
        f"Add model_type={names[0]}, for example." if names else "",
    )
    # Without any samples, the check of the session says what is missing.
    return with_samples[0] if with_samples else families[0]


def read_general_files(
    settings: Settings, families: Sequence[ModelFamily]
) -> dict[str, GeneralFile | None]:
    """Return the general file as each family reads it, by the family's name.

    Raises:
        ConfigError: It can't be read, or lacks rows for a family.
    """
    return {family.name: read_general_file(settings, family.kind) for family in families}


def check_sessions(
    settings: Settings, summaries: Sequence[SessionSummary], families: Sequence[ModelFamily]
) -> None:
    """Check that sessions have samples for all families, and can be learnt together.

    Raises:
        SessionError: A session lacks samples for one of the families.
        ConfigError: There are several sessions, and the settings don't fit to them.
        SampleError: Two sessions have rows that can't be trained on together.
    """
    for summary in summaries:
        _check_samples(summary, families)

    weights = settings.session_weights
    check(
        len(weights) in (0, len(summaries)),
        "session_weights",
        f"empty or a weight for each of {len(summaries)} sessions",
        weights,
    )
    if len(summaries) > 1:
        for family in families:
            _check_same_objective(settings, summaries, family)


def _check_same_objective(
    settings: Settings, summaries: Sequence[SessionSummary], family: ModelFamily
) -> None:
    """Raise `SampleError`, naming two sessions, if their rows have different objectives."""
    objectives = {}
    for summary in summaries:
        shapes = list(summary.shapes[family.kind])
        chosen = family.chosen_shapes(settings)
        learnt = [shape_named(shape).objective for shape in shapes if shape in chosen or not chosen]
        # A session with several takes the default one.
        several = len(set(learnt)) > 1 and family.default_objective in learnt
        objective = family.default_objective if several else ", ".join(dict.fromkeys(learnt))
        objectives[summary.session_id] = objective or f"only {', '.join(shapes)}"

    (first, of_first), *others = objectives.items()
    for session_id, objective in others:
        if objective != of_first:
            raise SampleError(
                f"{family.kind} samples of several sessions must all have one "
                f"{family.objective_setting.rpartition('.')[2]}, got {of_first} in session {first} "
                f"and {objective} in session {session_id}. Train on them one after the other."
            )


def _check_samples(summary: SessionSummary, families: Sequence[ModelFamily]) -> None:
    """Raise `SessionError` if a session lacks samples for one of the families."""
    session_id = summary.session_id
    counts = {kind: count for kind, count in summary.samples.items() if count}
    if not counts:
        raise SessionError(
            f"session {session_id!r} has no samples. "
            f"Add some: tunetrail ingest FILE --session {session_id} --kind embedding"
        )

    for family in families:
        if family.kind not in counts:
            # Name the way out that needs no new samples first.
            other_kind, count = next(iter(counts.items()))
            trainable = [
                choice.name
                for choice in requested_families(ALL_FAMILIES)
                if choice.kind == other_kind
            ]
            advice = f"Train with model_type={trainable[0]}, or ingest" if trainable else "Ingest"
            raise SessionError(
                f"session {session_id!r} has no {family.kind} samples ({count} {other_kind}). "
                f"{advice} some with --kind {family.kind}."
            )
