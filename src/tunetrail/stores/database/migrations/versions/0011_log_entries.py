"""What applications log, why a training was started, and the deliveries of the hook."""

import sqlalchemy as sa
from alembic import op

from tunetrail.stores.database.tables import RowId, UtcDateTime

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the two tables, without rows, and add the columns."""
    op.create_table(
        "log_entries",
        sa.Column("id", RowId, primary_key=True),
        sa.Column("entry_id", sa.Text, nullable=False),
        sa.Column(
            "session_id",
            sa.Text,
            sa.ForeignKey("sessions.session_id", name="log_entries_session"),
            nullable=False,
        ),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("about", sa.Text),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("logged_at", sa.Double, nullable=False),
        sa.UniqueConstraint("entry_id", name="log_entries_once"),
    )
    op.create_index("log_entries_in_order", "log_entries", ["session_id", "id"])

    op.create_table(
        "hook_deliveries",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_at", UtcDateTime, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
    )

    op.add_column("sessions", sa.Column("collected_entries", RowId))
    op.add_column("samples", sa.Column("logged", sa.Boolean))
    op.add_column("training_runs", sa.Column("started_by", sa.Text))
