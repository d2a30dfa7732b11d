"""A request names one session or several."""

import pytest

from tunetrail.config import (
    checked_session_ids,
    name_of_sessions,
    plain_session_ids,
    sessions_of_name,
)
from tunetrail.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "session_ids"), [("s1", ("s1",)), (["s1"], ("s1",)), (("b", "a"), ("b", "a"))]
)
def test_checked_session_ids_takes_an_id_or_several(value, session_ids):
    assert checked_session_ids(value) == session_ids


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([], r"^session_id must be an id or a list of ids, got \[\]\.$"),
        (["a", "b", "a"], r"^session_id must be all different, got \['a', 'b', 'a'\]\.$"),
        (["a", "a/b"], r"^session_id must be 1 to 128 letters.*got 'a/b'\.$"),
        ([["a"]], r"^session_id must be 1 to 128 letters"),
        (7, r"^session_id must be 1 to 128 letters.*got 7\.$"),
        ("a+b", r"^session_id must be 1 to 128 letters"),
    ],
)
def test_checked_session_ids_refuses_anything_else(value, match):
    with pytest.raises(ConfigError, match=match):
        checked_session_ids(value)


def test_a_name_of_sessions_tells_them_again():
    assert name_of_sessions(("s1",)) == "s1"
    assert sessions_of_name(name_of_sessions(("s1", "2026_11"))) == ("s1", "2026_11")


def test_plain_session_ids_are_as_in_a_request():
    assert plain_session_ids(("s1",)) == "s1"
    assert plain_session_ids(("s1", "s2")) == ["s1", "s2"]
