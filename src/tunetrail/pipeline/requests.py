"""What is asked of the node, checked: the request itself, and that the session holds samples for it."""

from collections.abc import Mapping
from typing import Any

from tunetrail.config import check_identifier, requested_model_types
from tunetrail.errors import ConfigError, SessionError, did_you_mean
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
    session_id, model_type = (
        check_identifier("session_id", request["session_id"]),
        request.get("model_type", "all"),
    )
    requested_model_types(str(model_type))
    return session_id, str(model_type)


def check_samples(summary: SessionSummary, model_types: tuple[str, ...]) -> None:
    """Raise `SessionError` where a session lacks samples for one of the model types."""
    counts = {"embedding": summary.embedding, "llm": summary.llm}
    if not any(counts.values()):
        raise SessionError(
            f"session {summary.session_id!r} has no samples. "
            f"Add some: tunetrail ingest FILE --session {summary.session_id} --kind embedding"
        )
    for model_type in model_types:
        if not counts[model_type]:
            other = next(each for each, count in counts.items() if count)
            raise SessionError(
                f"session {summary.session_id!r} has no {model_type} samples ({counts[other]} {other}). "
                f"Train with model_type={other}, or ingest some with --kind {model_type}."
            )
