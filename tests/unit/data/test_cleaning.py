import json
import time
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunetrail.config import CleaningConfig
from tunetrail.data.cleaning import clean, clean_text
from tunetrail.data.rows import rows_frame
from tunetrail.samples import Sample, SampleKind

OFF = CleaningConfig(fix_encoding=False, normalize_unicode=False, normalize_whitespace=False, drop_duplicates=False)
CODE = "def double(x):\n    if x:\n\n        return  x * 2\n\treturn 0"


def frame(shape: str, *contents: dict[str, Any]) -> pd.DataFrame:
    kind = SampleKind.LLM if shape in ("completion", "chat", "document") else SampleKind.EMBEDDING
    return rows_frame(
        (number, Sample(kind=kind, shape=shape, content=content)) for number, content in enumerate(contents)
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  plain  ", "plain"),
        (CODE, CODE),
        ("    indented = 1\n    again = 2\n", "    indented = 1\n    again = 2"),
        ("\n \n  first\nsecond  \t\nthird\r\nfourth\rfifth \n\n", "  first\nsecond\nthird\nfourth\nfifth"),
        ("cafÃ© au lait", "café au lait"),
        ("cafe\u0301", "café"),
        ("a\x00b\x07c\ufeffd\x0ce\x81", "abcde"),
        ("non\u200djoiner stays", "non\u200djoiner stays"),
        ("a\tb", "a\tb"),
        (" \n\t ", ""),
    ],
)
def test_clean_text_repairs_text_and_spares_code(text: str, wanted: str) -> None:
    assert clean_text(text, CleaningConfig()) == wanted


def test_clean_text_repairs_a_broken_line_among_good_ones() -> None:
    assert clean_text("schön\nschÃ¶n", CleaningConfig()) == "schön\nschön"


@given(st.text())
def test_clean_text_with_everything_off_changes_nothing(text: str) -> None:
    assert clean_text(text, OFF) == text


@given(st.text(alphabet=" \t\r\nab\xa0\u0301e\x0c"))
def test_clean_text_is_idempotent(text: str) -> None:
    once = clean_text(text, CleaningConfig())
    assert clean_text(once, CleaningConfig()) == once


def test_clean_text_takes_linear_time_on_runs_of_blanks() -> None:
    started = time.perf_counter()
    clean_text("a" + " " * 1_000_000 + "b", CleaningConfig())
    assert time.perf_counter() - started < 2.0


def test_clean_keeps_the_first_of_equal_rows_and_names_it() -> None:
    result = clean(frame("label", *({"text": text, "label": "l"} for text in ("a", "b", "a ", "a"))), CleaningConfig())
    assert result.rows["row_id"].tolist() == [0, 1]
    assert result.set_aside["reason"].tolist() == ["duplicate of row 0"] * 2
    assert result.set_aside.loc[0, "before"] == "{'text': 'a ', 'label': 'l'}"
    assert result.set_aside.loc[0, "after"] == "{'text': 'a', 'label': 'l'}"
    assert (result.changed, result.duplicates, result.emptied) == (1, 2, 0)


@pytest.mark.parametrize(
    ("shape", "contents"),
    [
        ("label", [{"text": "a", "label": "x"}, {"text": "a", "label": "y"}]),
        ("score", [{"sentence1": "a", "sentence2": "b", "score": number} for number in (0.0, 1.0)]),
        ("vector", [{"text": "a", "embedding": [number, 1.0]} for number in (0.0, 1.0)]),
        ("chat", [{"messages": [{"role": "assistant", "content": text}]} for text in ("a", "b")]),
        ("pair", [{"anchor": "a", "positive": "b"}, {"anchor": "a", "positive": "b", "negative": "c"}]),
    ],
)
def test_clean_keeps_rows_that_differ_in_any_content(shape: str, contents: list[dict[str, Any]]) -> None:
    result = clean(frame(shape, *contents, *contents), CleaningConfig())
    assert result.rows["row_id"].tolist() == [0, 1] and result.duplicates == 2
    assert len(clean(frame(shape, *contents, *contents), OFF).rows) == 4


def test_clean_sets_rows_aside_that_repair_leaves_empty() -> None:
    result = clean(
        frame("completion", {"input": "\x00\x01", "output": "b"}, {"input": "a", "output": "b"}), CleaningConfig()
    )
    assert result.set_aside["reason"].tolist() == ["input is empty after cleaning"]
    assert result.emptied == 1 and result.rows["row_id"].tolist() == [1]


def test_clean_repairs_messages_without_touching_the_frame_it_was_given() -> None:
    rows = frame("chat", {"messages": [{"role": "user", "content": " a "}, {"role": "assistant", "content": "b\x00"}]})
    result = clean(rows, CleaningConfig())
    assert [turn["content"] for turn in result.rows.at[0, "messages"]] == ["a", "b"]
    assert rows.at[0, "messages"][0]["content"] == " a "


@given(st.lists(st.tuples(st.text(max_size=6), st.sampled_from(["x", "\x00", " "])), max_size=12), st.booleans())
def test_clean_accounts_for_every_row(contents: list[tuple[str, str]], drop_duplicates: bool) -> None:
    rows = frame("completion", *({"input": first, "output": second} for first, second in contents))
    result = clean(rows, CleaningConfig(drop_duplicates=drop_duplicates))
    assert len(result.rows) + len(result.set_aside) == len(rows)
    assert result.duplicates + result.emptied == len(result.set_aside)
    assert sorted([*result.rows["row_id"], *result.set_aside["row_id"]]) == rows["row_id"].tolist()
    json.dumps(result.to_dict())
