"""The test rows that a decision was made on."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column, empty for the decisions that are there."""
    op.add_column("promotions", sa.Column("test_rows", sa.JSON))
