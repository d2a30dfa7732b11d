"""The database of sessions, training runs, logs and the ledger, through SQLAlchemy."""
