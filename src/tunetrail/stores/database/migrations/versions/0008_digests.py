"""The digest of a version's files."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Add the column, empty for the decisions that are there."""
    op.add_column("promotions", sa.Column("digest", sa.Text))
