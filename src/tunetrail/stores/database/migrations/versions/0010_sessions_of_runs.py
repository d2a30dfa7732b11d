"""Trainings of several sessions: the sessions of each run and of each decision."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table, and fill it with the one session of each run that is there."""
    op.create_table(
        "training_run_sessions",
        sa.Column("training_run_id", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.ForeignKeyConstraint(
            ["training_run_id"], ["training_runs.id"], name="training_run_sessions_run"
        ),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.session_id"], name="training_run_sessions_session"
        ),
        sa.UniqueConstraint("session_id", "training_run_id", name="training_run_sessions_once"),
    )

    op.execute(
        "INSERT INTO training_run_sessions (training_run_id, position, session_id) "
        "SELECT id, 0, session_id FROM training_runs"
    )
    op.add_column("promotions", sa.Column("session_ids", sa.JSON))
