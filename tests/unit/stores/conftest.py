"""A database for each test: SQLite, and PostgreSQL if TUNETRAIL_TEST_POSTGRES names one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tunetrail.stores.connection import make_engine, parse_url
from tunetrail.stores.database import DatabaseManager

POSTGRES = os.environ.get("TUNETRAIL_TEST_POSTGRES", "")


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param(
            "postgres",
            marks=pytest.mark.skipif(not POSTGRES, reason="TUNETRAIL_TEST_POSTGRES is not set"),
        ),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tunetrail.db"

    with make_engine(parse_url(POSTGRES)).begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    return POSTGRES


@pytest.fixture
def manager(url: str) -> Iterator[DatabaseManager]:
    """Yield the manager of an empty database."""
    with DatabaseManager(url) as manager:
        yield manager
