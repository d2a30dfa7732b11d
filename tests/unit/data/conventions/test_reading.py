import math

import numpy
import pytest

from tunetrail.data.conventions.reading import IngestAccount, RowReader
from tunetrail.errors import SampleError
from tunetrail.samples import SampleKind

EMBEDDING, LLM = SampleKind.EMBEDDING, SampleKind.LLM


def test_a_row_in_a_shape_of_its_own_is_read_without_a_word():
    reader = RowReader(EMBEDDING)
    (sample,) = reader.read({"anchor": "a", "positive": "b", "negative": None, "group": 3})
    assert (sample.shape, sample.group, sample.metadata) == ("pair", "3", {})
    assert not reader.account.read_as and not reader.account.unused


def test_common_columns_stay_with_each_of_several_rows():
    reader = RowReader(EMBEDDING)
    row = {"query": "q", "pos": numpy.array(["a", "b"]), "group": "g", "timestamp": "2026-01-01"}
    samples = reader.read(row)
    assert [sample.content["positive"] for sample in samples] == ["a", "b"]
    assert {(sample.group, sample.timestamp) for sample in samples} == {
        ("g", "2026-01-01T00:00:00+00:00")
    }


def test_an_accepting_verdict_is_used_and_a_class_is_not():
    reader = RowReader(LLM)
    reader.read({"input": "a", "output": "b", "label": True})
    reader.read({"input": "a", "output": "b", "label": "billing"})
    assert reader.account.unused == {"label": 1}


def test_empty_cells_of_a_table_choose_no_convention():
    reader = RowReader(LLM)
    (sample,) = reader.read({"prompt": "a", "completion": "b", "chosen": None, "text": math.nan})
    assert sample.content == {"input": "a", "output": "b"}


def test_nli_rows_keep_their_group_and_their_numbers():
    reader = RowReader(EMBEDDING)
    rows = [
        {"premise": "p", "hypothesis": "no", "label": 2, "group": "g"},
        {"premise": "p", "hypothesis": "yes", "label": "0", "group": "g", "genre": "x"},
    ]
    for row in reader.account.counted(rows):
        assert reader.read(row) == []

    ((row_number, sample),) = reader.finish()
    assert row_number == 2 and sample.group == "g"
    assert sample.content == {"anchor": "p", "positive": "yes", "negative": "no"}
    assert reader.account.unused == {"genre": 1}


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"premise": "p", "hypothesis": "h", "label": 1}, EMBEDDING, "label must be entailment or"),
        ({"premise": "p", "hypothesis": "h", "label": -1}, EMBEDDING, "or 0, 1 or 2, got -1"),
        ({"query": "q", "pos": []}, EMBEDDING, "pos must have at least one text, got none"),
        ({"query": "q", "pos": ["a", 3]}, EMBEDDING, r"pos\[1\] must be a string, got int"),
        (
            {"sentence1": "a", "sentence2": "b", "label": "neutral"},
            EMBEDDING,
            "label must be a number that says how similar the texts are, got 'neutral'",
        ),
        ({"instruction": "a", "output": "b", "history": "c"}, LLM, "history must be a list of"),
        ({"chosen": "a", "rejected": "b"}, LLM, "chosen must be a list of messages or a transc"),
        ({"prompt": "", "completion": "b"}, LLM, "prompt must have a text"),
        ({"input": "a", "output": "b", "rating": "meh"}, LLM, "rating must say whether"),
    ],
)
def test_a_row_that_a_convention_cannot_read_is_named(row, kind, message):
    with pytest.raises(SampleError, match=message):
        RowReader(kind).read(row)


def test_reasons_that_differ_in_their_values_are_one():
    account = IngestAccount()
    for n in range(5):
        account.add_rejection(n + 1, f"timestamp must be ISO 8601, got '{n}'. Write it like this.")
    account.add_rejection(6, "line 6 is not JSON: char 1.")
    account.add_rejection(9, "line 9 is not JSON: char 7.")

    first, second = account.rejections.values()
    assert (first.rows, first.first_rows, second.rows) == (5, [1, 2, 3], 2)
    assert "got '0'. Write it" in first.reason


def test_the_number_of_reasons_is_bounded():
    account = IngestAccount()
    letters = [chr(0x4E00 + n) for n in range(300)]
    for n, letter in enumerate(letters):
        account.add_rejection(n, letter)
    assert len(account.rejections) == 101
    assert sum(rejections.rows for rejections in account.rejections.values()) == 300
