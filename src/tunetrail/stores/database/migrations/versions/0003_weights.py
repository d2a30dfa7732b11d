"""The weight of a sample in training."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column, empty for the samples that are there: each counts 1."""
    op.add_column("samples", sa.Column("weight", sa.Double))
