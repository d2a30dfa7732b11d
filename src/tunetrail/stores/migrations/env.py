"""Alembic's entry: run the revisions on the connection that the caller handed over, inside its transaction."""

from alembic import context

from tunetrail.stores.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=context.config.attributes["version_table"],
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
