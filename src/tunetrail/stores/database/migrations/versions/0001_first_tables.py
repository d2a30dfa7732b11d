"""The first tables: sessions, samples, rejected samples, training runs, promotions."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# SQLite numbers rows by itself only in a column of type INTEGER.
_ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MOMENT = sa.DateTime(timezone=True)


def _session_key(name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], name=name)


def upgrade() -> None:
    """Create every table, then the triggers that keep the ledger append-only."""
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Text, primary_key=True),
        sa.Column("created_at", _MOMENT, nullable=False),
    )
    _create_samples()
    _create_training_runs()
    _create_promotions()
    if op.get_context().dialect.name == "postgresql":
        _protect_ledger_on_postgresql()
    else:
        _protect_ledger_on_sqlite()


def _create_samples() -> None:
    op.create_table(
        "samples",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("shape", sa.Text, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.Column("group_name", sa.Text),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("occurrence", sa.Integer, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        # Lets a repeated ingest add nothing, and a file hold equal rows.
        sa.UniqueConstraint("session_id", "digest", "occurrence", name="samples_once"),
        _session_key("samples_session"),
    )
    # The order in which the samples of a session are read, page by page.
    op.create_index("samples_in_order", "samples", ["session_id", "kind", "id"])

    op.create_table(
        "rejected_samples",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("row_number", _ROW_ID, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("row", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("occurrence", sa.Integer, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.UniqueConstraint("session_id", "digest", "occurrence", name="rejected_samples_once"),
        _session_key("rejected_samples_session"),
    )


def _create_training_runs() -> None:
    op.create_table(
        "training_runs",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("model_type", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("mlflow_run_id", sa.Text),
        sa.Column("result", sa.JSON),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("process_started", sa.Double, nullable=False),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("updated_at", _MOMENT, nullable=False),
        _session_key("training_runs_session"),
    )

    op.create_index("training_runs_of_session", "training_runs", ["session_id", "created_at"])


def _create_promotions() -> None:
    op.create_table(
        "promotions",
        sa.Column("id", _ROW_ID, primary_key=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("model_name", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("previous_version", sa.Text),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("metric", sa.Text),
        sa.Column("before", sa.Double),
        sa.Column("after", sa.Double),
        sa.Column("improvement", sa.Double),
        sa.Column("lower", sa.Double),
        sa.Column("upper", sa.Double),
        # No foreign keys: lines can't be changed or deleted together with what they refer to.
        sa.Column("run_id", sa.Text),
        sa.Column("mlflow_run_id", sa.Text),
        sa.Column("session_id", sa.Text),
    )

    op.create_index("promotions_of_model", "promotions", ["model_name", "id"])


def _protect_ledger_on_sqlite() -> None:
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER promotions_refuse_{event.lower()} BEFORE {event} ON promotions "
            "BEGIN SELECT RAISE(ABORT, 'promotions is append-only'); END"
        )


def _protect_ledger_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION promotions_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'promotions is append-only'; END $$"
    )
    op.execute(
        # For each statement, since TRUNCATE fires no trigger for rows.
        "CREATE TRIGGER promotions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON promotions "
        "FOR EACH STATEMENT EXECUTE FUNCTION promotions_refuse_change()"
    )
