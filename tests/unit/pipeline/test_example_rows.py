import math

import pandas as pd
import pytest

from tunetrail.config import PrivacyConfig
from tunetrail.data.rows import object_series, rows_frame
from tunetrail.fingerprints import value_fingerprint
from tunetrail.pipeline.example_rows import row_details
from tunetrail.samples import SampleKind, parse_sample


@pytest.fixture
def rows() -> pd.DataFrame:
    samples = [
        parse_sample(row, SampleKind.EMBEDDING)
        for row in (
            {"anchor": "a", "positive": "é", "group": "g"},
            {"anchor": "b", "positive": "c", "negative": "d"},
        )
    ]
    measured = rows_frame([(11, samples[0]), (12, samples[1])])
    return measured.assign(
        token_count=[4, 6], characters=[2, 3], language=object_series(["en", None])
    )


def test_row_details_hold_sizes_and_a_hash_but_no_text(rows: pd.DataFrame) -> None:
    details, own_names = row_details(rows, {}, PrivacyConfig())

    assert details.index.tolist() == [11, 12] and own_names == []
    assert details["text_hash"].tolist() == [
        value_fingerprint(["a", "é"]),
        value_fingerprint(["b", "c", "d"]),
    ]
    assert details["bytes"].tolist() == [3, 3]
    assert details["tokens"].tolist() == [4, 6] and details["characters"].tolist() == [2, 3]
    assert details["group"].tolist() == ["g", None] and details["language"].tolist() == ["en", None]
    assert "timestamp" not in details and "anchor" not in details


def test_row_details_without_counted_tokens_have_none(rows: pd.DataFrame) -> None:
    details, _ = row_details(rows.assign(token_count=-1), {}, PrivacyConfig())
    assert "tokens" not in details


def test_own_columns_are_numbers_or_short_texts_without_personal_data(rows: pd.DataFrame) -> None:
    own_columns = {
        11: {"source": "web", "price": 2, "tags": ["a"], "comment": "x" * 101, "is_new": True},
        12: {"author": "ann@example.com", "price": 2.5, "source": None, "row_id": 5, "mse": "low"},
    }

    details, own_names = row_details(rows, own_columns, PrivacyConfig(), taken={"recall"})

    assert sorted(own_names) == ["author", "is_new", "own_mse", "own_row_id", "price", "source"]
    assert details["source"].tolist() == ["web", None]
    assert details["price"].tolist() == [2.0, 2.5]
    assert details["author"].tolist() == [None, "[EMAIL]"]
    assert details["is_new"].tolist() == ["True", None]
    assert math.isnan(details["own_row_id"].iloc[0]) and details["own_row_id"].iloc[1] == 5.0


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["ann@example.com", "bob@example.com"], ["[EMAIL]", "[EMAIL] 2"]),
        (["ann@example.com", "ann@example.com"], ["[EMAIL]", "[EMAIL]"]),
        (["call +49 30 901820", "team a"], ["call [PHONE]", "team a"]),
        (["DE89370400440532013000 ltd", None], ["[IBAN] ltd", None]),
    ],
)
def test_groups_and_own_columns_name_no_person_but_stay_apart(
    rows: pd.DataFrame, names: list[str | None], shown: list[str | None]
) -> None:
    grouped = rows.assign(group=object_series(names))
    own_columns = dict(zip((11, 12), ({"author": name} for name in names), strict=True))

    details, _ = row_details(grouped, own_columns, PrivacyConfig())

    assert details["group"].tolist() == shown
    assert details["author"].tolist() == shown
