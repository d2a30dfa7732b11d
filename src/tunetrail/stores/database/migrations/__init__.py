"""Alembic migrations of the database, run by `tunetrail.stores.database.connection`."""
