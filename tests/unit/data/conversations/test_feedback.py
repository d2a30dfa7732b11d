import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.data.conversations.feedback import FEEDBACK_COLUMNS, Verdict, verdict_of
from tunetrail.errors import SampleError


@pytest.mark.parametrize(
    ("record", "given_text"),
    [
        ({"feedback": True}, "true"),
        ({"feedback": "Thumbs_Up"}, "Thumbs_Up"),
        ({"feedback": "thumbsUp"}, "thumbsUp"),
        ({"thumbs": " up "}, "up"),
        ({"thumbs": 1}, "1"),
        ({"feedback": "👍"}, "👍"),
        ({"rating": 3}, "3 of 5 stars"),
        ({"rating": "4.5"}, "4.5 of 5 stars"),
        ({"feedback": {"rating": 5, "comment": "a long text"}}, "5 of 5 stars"),
        ({"feedback": {"score": 1}}, "1"),
        ({"feedback": {"value": "like", "score": None}}, "like"),
        ({"feedback": "good", "rating": 5}, "good"),
    ],
)
def test_verdict_of_reads_what_accepts_an_answer(record: dict[str, Any], given_text: str) -> None:
    assert verdict_of(record) == Verdict(accepted=True, wording=given_text)


@pytest.mark.parametrize(
    ("record", "given_text"),
    [
        ({"feedback": False}, "false"),
        ({"feedback": "thumbs_down"}, "thumbs_down"),
        ({"feedback": "Thumbs Down"}, "Thumbs Down"),
        ({"thumbs": "down"}, "down"),
        ({"thumbs": -1}, "-1"),
        ({"feedback": "-1"}, "-1"),
        ({"feedback": "👎"}, "👎"),
        ({"rating": 1}, "1 of 5 stars"),
        ({"rating": 2.5}, "2.5 of 5 stars"),
        ({"rating": "dislike"}, "dislike"),
        ({"rating": {"value": 2}}, "2 of 5 stars"),
        ({"feedback": {"rating": "thumbsDown"}}, "thumbsDown"),
    ],
)
def test_verdict_of_reads_what_rejects_an_answer(record: dict[str, Any], given_text: str) -> None:
    assert verdict_of(record) == Verdict(accepted=False, wording=given_text)


@pytest.mark.parametrize(
    "value", [None, "", "  ", "neutral", math.nan, {}, {"rating": None}, {"score": math.nan}]
)
def test_verdict_of_is_none_where_nothing_is_said(value: Any) -> None:
    assert verdict_of({"feedback": value}) is None
    assert verdict_of({}) is None


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"feedback": "meh"},
            r"feedback must say whether an answer was accepted or rejected, got 'meh'\. Write up",
        ),
        ({"feedback": 0}, "feedback must .* got 0"),
        ({"thumbs": 4}, "thumbs must .* got 4"),
        ({"feedback": 0.7}, "feedback must .* got 0.7"),
        ({"rating": 0}, "rating must .* got 0"),
        ({"rating": -1}, "rating must .* got -1"),
        ({"rating": 6}, "rating must .* got 6"),
        ({"rating": 10**5000}, "rating must .* got inf"),
        ({"feedback": math.inf}, "feedback must .* got inf"),
        ({"feedback": ["up"]}, "feedback must .* got list"),
        ({"feedback": {"comment": "fine"}}, "feedback must .* got dict"),
        ({"feedback": {"value": {"value": "up"}}}, "feedback must .* got dict"),
        (
            {"feedback": "up", "rating": 1},
            "feedback must hold one verdict on an answer, got up, 1 of 5 stars",
        ),
        (
            {"feedback": {"score": 1, "value": -1}},
            "feedback must hold one verdict on an answer, got 1, -1",
        ),
    ],
)
def test_verdict_of_never_guesses(record: dict[str, Any], message: str) -> None:
    with pytest.raises(SampleError, match=message):
        verdict_of(record)


def test_verdict_of_never_repeats_a_comment() -> None:
    with pytest.raises(SampleError, match="got a text of 38 characters") as caught:
        verdict_of({"feedback": "Call me at 0123 456789, my name is Ann"})
    assert "Ann" not in str(caught.value)


def test_verdict_of_a_megabyte_takes_no_time() -> None:
    with pytest.raises(SampleError, match="a text of 4000000 characters"):
        verdict_of({"feedback": "-_ 1" * 1_000_000})


@given(
    st.dictionaries(
        st.sampled_from(FEEDBACK_COLUMNS),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["rating", "score", "value", "x"]), inner)
            ),
        ),
    )
)
def test_verdict_of_anything_is_a_verdict_or_a_sample_error(record: dict[str, Any]) -> None:
    try:
        verdict = verdict_of(record)
    except SampleError:
        return
    assert verdict is None or isinstance(verdict, Verdict)
