"""Requests: a request to the node is checked, and so is the session that it names."""

from collections.abc import Mapping, Sequence
from typing import Any

from tunetrail.config import Settings, check_identifier
from tunetrail.config.checks import check
from tunetrail.errors import ConfigError, SessionError, did_you_mean
from tunetrail.learning.devices import check_batch
from tunetrail.learning.training.named_callbacks import (
    build_callbacks,
    check_early_stopping,
    check_loggers,
)
from tunetrail.learning.training.sharding import FSDP
from tunetrail.pipeline.families import ALL_FAMILIES, requested_families
from tunetrail.pipeline.general_file import GeneralFile, read_general_file
from tunetrail.pipeline.model_family import ModelFamily
from tunetrail.pipeline.ranks import rank_count
from tunetrail.stores.database import SessionSummary

_KEYS = ("session_id", "model_type")


def checked_request(request: Mapping[str, Any]) -> tuple[str, str]:
    """Return the session id and the model type of a request.

    Raises:
        ConfigError: A key is unknown, or a value isn't allowed.
    """
    for key in request:
        if key not in _KEYS:
            raise ConfigError(f"the request has no key {key!r}.{did_you_mean(str(key), _KEYS)}")
    if "session_id" not in request:
        raise ConfigError("session_id must be given. `tunetrail sessions` lists them.")

    # The id becomes part of the names of runs and files, so it can't hold just any text.
    session_id = check_identifier("session_id", request["session_id"])
    model_type = str(request.get("model_type", ALL_FAMILIES))
    requested_families(model_type)
    return session_id, model_type


def single_family(summary: SessionSummary, model_type: str) -> ModelFamily:
    """Return the one family that a job of a sweep trains, as jobs are compared by one metric.

    Args:
        summary: The session.
        model_type: The model type; `all` stands for the only family with samples in the session.

    Raises:
        ConfigError: The session has samples of several families, and none is chosen.
    """
    families = requested_families(model_type)
    with_samples = [family for family in families if summary.samples.get(family.kind)]
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


def check_devices(settings: Settings, families: Sequence[ModelFamily]) -> None:
    """Raise `ConfigError` if a training can't run on its devices.

    There are too few, a batch has too few rows, or the weights can't be sharded.
    """
    devices = rank_count(settings.trainer)
    for family in families:
        check_batch(family.section(settings).training, devices, family.name)
        if settings.trainer.strategy == FSDP:
            check_strategy(settings, family)


def check_strategy(settings: Settings, family: ModelFamily) -> None:
    """Raise `ConfigError` if the weights of a family's models can't be sharded."""
    check(
        family.check_sharding is not None,
        "trainer.strategy",
        f"auto or ddp for models of the type {family.name}",
        FSDP,
        "Set trainer=ddp, or model_type=llm: only language models are sharded.",
    )
    assert family.check_sharding is not None
    family.check_sharding(settings)


def check_callbacks(settings: Settings, families: Sequence[ModelFamily]) -> None:
    """Raise `ConfigError` for a callback or logger that isn't allowed, is wrong or would clash."""
    callbacks = build_callbacks(settings.trainer.callbacks)
    for family in families:
        training, objective = family.section(settings).training, family.objective(settings)
        check_early_stopping(callbacks, training, family.name, objective)
    check_loggers(settings.trainer.logger)


def read_general_files(
    settings: Settings, families: Sequence[ModelFamily]
) -> dict[str, GeneralFile | None]:
    """Return the general file as each family reads it, by the family's name.

    Raises:
        ConfigError: It can't be read, or lacks rows for a family.
    """
    return {family.name: read_general_file(settings, family.kind) for family in families}


def check_samples(summary: SessionSummary, families: Sequence[ModelFamily]) -> None:
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
