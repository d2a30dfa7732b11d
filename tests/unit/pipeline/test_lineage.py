"""What registered versions have learnt from, as the ledger says."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunetrail.pipeline.families import EMBEDDING
from tunetrail.pipeline.lineage import Lineage
from tunetrail.stores.database.manager import DatabaseManager, PromotionRecord
from tunetrail.stores.database.packed_row_ids import pack_row_ids


@pytest.fixture
def database(tmp_path: Path, migrated_database: Path) -> Iterator[DatabaseManager]:
    shutil.copy(migrated_database, tmp_path / "tunetrail.db")
    with DatabaseManager(f"sqlite:///{tmp_path}/tunetrail.db") as manager:
        yield manager


def promote(database: DatabaseManager, version: str, learnt: list[int] | None) -> None:
    database.record_promotion(
        PromotionRecord(
            model_name="embedding",
            version=version,
            decision="promoted",
            metric="ndcg_at_10",
            after=0.5,
            reason="it is better",
            learnt_rows=None if learnt is None else pack_row_ids(learnt),
        )
    )


def test_rows_are_those_of_all_versions_as_far_as_they_are_known(database: DatabaseManager) -> None:
    promote(database, "1", None)
    promote(database, "2", [3, 5])
    promote(database, "3", [4, 5])
    lineage = Lineage(database=database, family=EMBEDDING)

    assert lineage.row_ids(["1", "2", "3"]).tolist() == [3, 4, 5]
    assert lineage.row_ids([]).tolist() == []
    assert lineage.unknown_versions(["1", "2", "7"]) == ["1", "7"]


def test_rows_of_a_version_are_read_once_as_soon_as_they_are_known(
    database: DatabaseManager,
) -> None:
    lineage = Lineage(database=database, family=EMBEDDING)
    assert lineage.row_ids(["1"]).tolist() == []
    promote(database, "1", [2])
    assert lineage.row_ids(["1"]).tolist() == [2]

    # A later line on the same version would be read instead.
    promote(database, "1", [8])

    assert lineage.row_ids(["1"]).tolist() == [2]
    assert Lineage(database=database, family=EMBEDDING).row_ids(["1"]).tolist() == [8]
