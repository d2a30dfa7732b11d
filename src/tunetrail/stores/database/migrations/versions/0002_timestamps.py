"""The time of a sample: text, because ISO 8601 in UTC sorts like time."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column, empty for the samples that are there."""
    op.add_column("samples", sa.Column("timestamp", sa.Text))
