"""The moves of root: an intent before each move and a decision after it."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns, let the lines that are there be decisions, and refuse replaced lines."""
    event = sa.Column("event", sa.Text, nullable=False, server_default="decision")
    op.add_column("promotions", event)
    op.add_column("promotions", sa.Column("move_id", sa.Text))
    op.add_column("promotions", sa.Column("actor", sa.Text))
    op.add_column("promotions", sa.Column("details", sa.JSON))
    op.create_index("promotions_of_move", "promotions", ["move_id", "event"], unique=True)

    # INSERT OR REPLACE deletes the old line without firing the triggers of DELETE. PostgreSQL has
    # no such statement, and its ON CONFLICT DO UPDATE fires the triggers of UPDATE.
    if op.get_context().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER promotions_refuse_replace BEFORE INSERT ON promotions "
            "WHEN EXISTS (SELECT 1 FROM promotions WHERE id = NEW.id OR "
            "(move_id = NEW.move_id AND event = NEW.event)) "
            "BEGIN SELECT RAISE(ABORT, 'promotions is append-only'); END"
        )
