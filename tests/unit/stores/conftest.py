"""A database for each test: SQLite, and PostgreSQL if TUNETRAIL_TEST_POSTGRES names one."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.postgres import EVERY_DATABASE, empty_database

from tunetrail.stores.database.manager import DatabaseManager


@pytest.fixture(params=EVERY_DATABASE)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database."""
    return empty_database(request.param, tmp_path)


@pytest.fixture
def manager(url: str, migrated_database: Path) -> Iterator[DatabaseManager]:
    """Yield the manager of an empty database."""
    if url.startswith("sqlite:///"):
        shutil.copy(migrated_database, url.removeprefix("sqlite:///"))
    with DatabaseManager(url) as manager:
        yield manager
