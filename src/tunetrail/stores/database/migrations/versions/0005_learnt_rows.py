"""The rows that a version has learnt from."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column, empty for the decisions that are there."""
    op.add_column("promotions", sa.Column("learnt_rows", sa.LargeBinary))
