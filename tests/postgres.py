"""The databases of the tests: SQLite, and the PostgreSQL that TUNETRAIL_TEST_POSTGRES names.

That database is emptied.
"""

import os
from pathlib import Path

import pytest
from sqlalchemy import text

from tunetrail.stores.database.connection import make_engine, parse_url

POSTGRES = os.environ.get("TUNETRAIL_TEST_POSTGRES", "")
needs_postgres = pytest.mark.skipif(not POSTGRES, reason="TUNETRAIL_TEST_POSTGRES is not set")

EVERY_DATABASE = ["sqlite", pytest.param("postgres", marks=needs_postgres)]
"""Parameters of a fixture that hands out `empty_database`."""


def empty_database(kind: str, folder: Path) -> str:
    """Return the URL of an empty database, `sqlite` in a folder or `postgres`."""
    return empty_postgres() if kind == "postgres" else f"sqlite:///{folder}/tunetrail.db"


def empty_postgres() -> str:
    """Empty the PostgreSQL database, and return its URL."""
    with make_engine(parse_url(POSTGRES)).begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    return POSTGRES
