import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.config import CleaningConfig, PrivacyConfig
from tunetrail.data.cleaning import clean_rows, clean_text
from tunetrail.data.rows import rows_frame
from tunetrail.samples import Sample, SampleKind

OFF = CleaningConfig(
    fix_encoding=False, normalize_unicode=False, normalize_whitespace=False, strip_markup=False
)
CODE = "def double(x):\n    if x:\n\n        return  x * 2\n\treturn 0"


def frame(shape: str, *contents: dict[str, Any]) -> pd.DataFrame:
    kind = (
        SampleKind.LLM
        if shape in ("completion", "chat", "document", "preference")
        else SampleKind.EMBEDDING
    )
    return rows_frame(
        (row_id, Sample(kind=kind, shape=shape, content=content))
        for row_id, content in enumerate(contents)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  plain  ", "plain"),
        (CODE, CODE),
        ("    indented = 1\n    again = 2\n", "    indented = 1\n    again = 2"),
        (
            "\n \n  first\nsecond  \t\nthird\r\nfourth\rfifth \n\n",
            "  first\nsecond\nthird\nfourth\nfifth",
        ),
        ("cafÃ© au lait", "café au lait"),
        ("cafe\u0301", "café"),
        ("a\x00b\x07c\ufeffd\x0ce\x81", "abcd\ne"),
        ("non\u200djoiner stays", "non\u200djoiner stays"),
        ("a\tb", "a\tb"),
        (" \n\t ", ""),
    ],
)
def test_clean_text_repairs_text_and_spares_code(text: str, expected: str) -> None:
    assert clean_text(text, CleaningConfig())[0] == expected


def test_clean_text_repairs_a_broken_line_among_good_ones() -> None:
    assert clean_text("schön\nschÃ¶n", CleaningConfig())[0] == "schön\nschön"


@given(st.text())
def test_clean_text_with_everything_off_changes_nothing(text: str) -> None:
    assert clean_text(text, OFF) == (text, [])


@given(st.text(alphabet=" \t\r\nab\xa0\u0301e\x0c"))
def test_clean_text_is_idempotent(text: str) -> None:
    once, _ = clean_text(text, CleaningConfig())

    assert clean_text(once, CleaningConfig()) == (once, [])


def test_clean_text_takes_linear_time_on_runs_of_blanks() -> None:
    clean_text("a" + " " * 1_000_000 + "b", CleaningConfig())


def test_clean_rows_keeps_before_and_after_of_what_it_changed() -> None:
    result = clean_rows(
        frame("label", *({"text": text, "label": "l"} for text in ("a", "b ", "sch\u00c3\u00b6n"))),
        CleaningConfig(),
    )

    assert result.rows["text"].tolist() == ["a", "b", "schön"]
    assert result.changes[["row_id", "step", "reason"]].values.tolist() == [
        [1, "cleaning", "white space normalised"],
        [2, "cleaning", "encoding repaired"],
    ]
    assert json.loads(result.changes.at[0, "before"]) == {"text": "b ", "label": "l"}
    assert json.loads(result.changes.at[0, "after"]) == {"text": "b", "label": "l"}


def test_clean_rows_replaces_personal_data_also_in_what_it_keeps() -> None:
    rows = frame("pair", {"anchor": "Mail to jane.doe@corp.example now", "positive": " p"})
    result = clean_rows(rows, CleaningConfig())

    assert result.rows.at[0, "anchor"] == "Mail to [EMAIL] now" and result.placeholders == {
        "EMAIL": 1
    }
    assert result.changes.at[0, "reason"] == "EMAIL replaced; white space normalised"
    assert "jane" not in str(result.changes.values.tolist())

    unmasked = clean_rows(rows, CleaningConfig(privacy=PrivacyConfig(enabled=False)))
    assert unmasked.rows.at[0, "anchor"] == rows.at[0, "anchor"]


def test_clean_rows_leaves_labels_their_numbers() -> None:
    rows = frame("label", {"text": "call", "label": "+49 170 1234567"})
    assert clean_rows(rows, CleaningConfig()).rows.at[0, "label"] == "+49 170 1234567"


def test_clean_rows_removes_markup_and_says_so() -> None:
    result = clean_rows(
        frame("text", {"text": "<p>Plain <b>words</b> here.</p>"}), CleaningConfig()
    )
    assert result.rows.at[0, "text"] == "Plain words here."
    assert result.changes.at[0, "reason"].startswith("markup removed")


def test_clean_rows_sets_rows_aside_that_repair_leaves_empty() -> None:
    rows = frame("completion", {"input": "\x00\x01", "output": "b"}, {"input": "a", "output": "b"})
    result = clean_rows(rows, CleaningConfig())
    assert result.set_aside["reason"].tolist() == ["input is empty after cleaning"]
    assert result.rows["row_id"].tolist() == [1] and len(result.changes) == 0


def test_clean_rows_sets_preferences_aside_that_repair_leaves_without_a_difference() -> None:
    answers = [
        ("Write to ann@example.org.", "Write to bob@example.org."),
        ("Call me.", "Write to me."),
    ]
    rows = frame(
        "preference",
        *({"prompt": "How?", "chosen": one, "rejected": rejected} for one, rejected in answers),
    )

    result = clean_rows(rows, CleaningConfig())

    assert result.set_aside["reason"].tolist() == ["chosen equals rejected after cleaning"]
    assert result.rows["rejected"].tolist() == ["Write to me."]


def test_clean_rows_repairs_messages_without_touching_the_frame_it_was_given() -> None:
    rows = frame(
        "chat",
        {
            "messages": [
                {"role": "user", "content": " a "},
                {"role": "assistant", "content": "b\x00"},
            ]
        },
    )

    result = clean_rows(rows, CleaningConfig())

    assert [turn["content"] for turn in result.rows.at[0, "messages"]] == ["a", "b"]
    assert rows.at[0, "messages"][0]["content"] == " a "


@given(st.lists(st.tuples(st.text(max_size=6), st.sampled_from(["x", "\x00", " "])), max_size=12))
def test_clean_rows_accounts_for_every_row(contents: list[tuple[str, str]]) -> None:
    rows = frame("completion", *({"input": first, "output": second} for first, second in contents))
    result = clean_rows(rows, CleaningConfig())
    assert sorted([*result.rows["row_id"], *result.set_aside["row_id"]]) == rows["row_id"].tolist()
    assert set(result.changes["row_id"]) <= set(result.rows["row_id"])


def test_clean_rows_takes_an_optional_text_that_cleaning_empties_as_absent() -> None:
    content = {"anchor": "one", "positive": "two", "negative": "<p></p>"}
    cleaned = clean_rows(frame("pair", content), CleaningConfig())
    assert cleaned.rows["negative"].tolist() == [None] and len(cleaned.set_aside) == 0
