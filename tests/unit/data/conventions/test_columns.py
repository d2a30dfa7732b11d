import pytest

from tunetrail.data.conventions.columns import (
    check_sources,
    check_targets,
    read_mapping,
    renamed,
    suggestion,
)
from tunetrail.errors import SampleError


def test_read_mapping_takes_names_with_blanks():
    assert read_mapping("anchor = My question,positive=b") == {
        "anchor": "My question",
        "positive": "b",
    }


@pytest.mark.parametrize("text", ["anchor", "anchor=", "=b", "anchor=a,,positive=b", ","])
def test_read_mapping_refuses_anything_else(text):
    with pytest.raises(SampleError, match="--columns must be a list of NAME=COLUMN"):
        read_mapping(text)


def test_columns_can_be_swapped_but_not_overwritten():
    row = {"anchor": "a", "positive": "b"}
    swap = {"anchor": "positive", "positive": "anchor"}
    check_sources(swap, row)
    assert renamed(row, swap) == {"anchor": "b", "positive": "a"}

    with pytest.raises(SampleError, match="must map to a column that the file lacks"):
        check_sources({"anchor": "positive"}, row)


def test_check_targets_suggests_the_nearest_column():
    with pytest.raises(SampleError, match="got 'labl'"):
        check_targets({"labl": "a"}, ["label", "text"], "embedding")


@pytest.mark.parametrize(
    ("column", "known", "expected"),
    [
        ("created_at", ["timestamp"], " (is it timestamp?)"),
        ("Intent", ["label"], " (is it label?)"),
        ("intent", ["timestamp"], ""),
        ("product", ["label"], ""),
    ],
)
def test_suggestion_names_only_columns_that_samples_have(column, known, expected):
    assert suggestion(column, known) == expected
