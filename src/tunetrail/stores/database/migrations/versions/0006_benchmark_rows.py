"""The test rows of earlier trainings, on which later candidates are scored too."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the table, without rows."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "benchmark_rows",
        sa.Column("id", number, primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model_name", sa.Text, nullable=False),
        sa.Column("shape", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("row_id", number, nullable=False),
        sa.Column("cluster", sa.Text, nullable=False),
        sa.Column("record", sa.JSON, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.UniqueConstraint("model_name", "digest", name="benchmark_rows_once"),
    )

    columns = ["model_name", "shape", "id"]
    op.create_index("benchmark_rows_of_shape", "benchmark_rows", columns)
