"""The benchmark grows with the sessions, holds each row once, and stays within its size."""

from collections import Counter

import pytest

from tunetrail.stores.database.benchmark import session_quotas
from tunetrail.stores.database.manager import BenchmarkRecord, DatabaseManager


def records(session_id: str, row_ids: range, shape: str = "pair") -> list[BenchmarkRecord]:
    return [
        BenchmarkRecord(
            session_id=session_id,
            row_id=row_id,
            shape=shape,
            cluster=f"cluster {row_id}",
            digest=f"{row_id * 2654435761 % 2**32:08x}",
            record={"anchor": f"question {row_id}", "positive": "ä answer", "row_id": row_id},
        )
        for row_id in row_ids
    ]


def test_rows_are_read_as_they_were_added_and_once(manager: DatabaseManager) -> None:
    first = records("s1", range(5))

    manager.extend_benchmark("embedding", first, limit=100)
    manager.extend_benchmark("embedding", records("s2", range(3, 8)), limit=100)

    expected = [*first, *records("s2", range(5, 8))]
    assert manager.read_benchmark("embedding", "pair") == expected


def test_models_and_shapes_have_rows_of_their_own(manager: DatabaseManager) -> None:
    pairs, scores = records("s1", range(3)), records("s1", range(10, 14), "score")

    manager.extend_benchmark("embedding", [*pairs, *scores], limit=3)

    assert manager.read_benchmark("embedding", "pair") == pairs
    assert len(manager.read_benchmark("embedding", "score")) == 3
    assert manager.read_benchmark("llm", "pair") == []


def test_a_full_benchmark_keeps_an_equal_share_of_each_session(manager: DatabaseManager) -> None:
    for session in range(4):
        rows = records(f"s{session}", range(1000 * session, 1000 * session + 700))
        manager.extend_benchmark("embedding", rows, limit=600)
    before = manager.read_benchmark("embedding", "pair")

    manager.extend_benchmark("embedding", records("s9", range(9000, 9010)), limit=600)

    after = manager.read_benchmark("embedding", "pair")
    assert Counter(row.session_id for row in before) == dict.fromkeys(("s0", "s1", "s2", "s3"), 150)
    counts = Counter(row.session_id for row in after)
    assert counts["s9"] == 10 and sum(counts.values()) == 600
    assert {row.digest for row in after if row.session_id != "s9"} < {row.digest for row in before}


def test_an_empty_benchmark_of_no_rows(manager: DatabaseManager) -> None:
    manager.extend_benchmark("embedding", [], limit=10)
    manager.extend_benchmark("embedding", records("s1", range(4)), limit=0)

    assert manager.read_benchmark("embedding", "pair") == []


@pytest.mark.parametrize(
    ("sizes", "limit", "quotas"),
    [
        ({"a": 5, "b": 5}, 20, {"a": 5, "b": 5}),
        ({"a": 2, "b": 50, "c": 50}, 12, {"a": 2, "b": 5, "c": 5}),
        ({"a": 9, "b": 9, "c": 9}, 10, {"a": 3, "b": 3, "c": 4}),
        ({"a": 3, "b": 3}, 1, {"a": 0, "b": 1}),
        ({}, 10, {}),
    ],
)
def test_small_sessions_leave_their_share_to_large_ones(
    sizes: dict[str, int], limit: int, quotas: dict[str, int]
) -> None:
    assert session_quotas(sizes, limit) == quotas
