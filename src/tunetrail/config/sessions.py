"""The sessions of a request: one, or several that are learnt together."""

from collections.abc import Sequence
from typing import Any

from tunetrail.config.checks import Rule, check, check_different, check_identifier

SEPARATOR = "+"
"""Between the ids of sessions in one name; no id contains it."""


def _names_sessions(value: Any) -> bool:
    values = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(session_id, str) for session_id in values)


SESSION_IDS = Rule("an id or a list of ids", _names_sessions)


def checked_session_ids(value: Any) -> tuple[str, ...]:
    """Return the sessions of a request, which names one or a list of them.

    Raises:
        ConfigError: An id isn't allowed, is there twice, or there is none.
    """
    # The ids become part of the names of runs and files, so they can't hold just any text.
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (check_identifier("session_id", value),)

    session_ids = [check_identifier("session_id", session_id) for session_id in value]
    check(bool(session_ids), "session_id", "an id or a list of ids", session_ids)
    check_different("session_id", session_ids)
    return tuple(session_ids)


def name_of_sessions(session_ids: Sequence[str]) -> str:
    """Return the sessions as one name, such as `s1` or `s1+s2`."""
    return SEPARATOR.join(session_ids)


def sessions_of_name(name: str) -> tuple[str, ...]:
    """Return the sessions of a name that `name_of_sessions` gave."""
    return tuple(name.split(SEPARATOR))


def plain_session_ids(session_ids: Sequence[str]) -> str | list[str]:
    """Return the sessions as a request names them: an id, or a list of several."""
    return session_ids[0] if len(session_ids) == 1 else list(session_ids)
