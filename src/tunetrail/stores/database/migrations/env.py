"""Alembic's entry: runs the revisions in the transaction of the caller's connection."""

from alembic import context

from tunetrail.stores.database.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=context.config.attributes["version_table"],
    # A migration that fails halfway leaves the tables as they were.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
