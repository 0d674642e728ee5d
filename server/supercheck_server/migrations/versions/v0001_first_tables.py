"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "causes",
        sa.Column("no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_causes")),
        sa.UniqueConstraint("key", name=op.f("uq_causes_key")),
    )
    op.create_table(
        "loads",
        sa.Column("minute", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("queued", sa.Integer(), nullable=False),
        sa.Column("wait_s", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("minute", name=op.f("pk_loads")),
    )
    op.create_table(
        "runs",
        sa.Column("no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("branch", sa.Text(), nullable=False),
        sa.Column("commit", sa.Text(), nullable=False),
        sa.Column("pull_request", sa.Integer(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("passed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("xfailed", sa.Integer(), nullable=False),
        sa.Column("xpassed", sa.Integer(), nullable=False),
        sa.Column("executions", sa.Integer(), nullable=False),
        sa.Column("submitted_ms", sa.BigInteger(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("delivered", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_runs")),
        sa.UniqueConstraint("id", name=op.f("uq_runs_id")),
    )
    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_runs_branch_submitted_ms_no"), ["branch", "submitted_ms", "no"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_runs_delivered_verdict"), ["delivered", "verdict"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_runs_project_submitted_ms_no"), ["project", "submitted_ms", "no"], unique=False
        )
        batch_op.create_index(batch_op.f("ix_runs_submitted_ms_no"), ["submitted_ms", "no"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_runs_trigger_submitted_ms_no"), ["trigger", "submitted_ms", "no"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_runs_verdict_submitted_ms_no"), ["verdict", "submitted_ms", "no"], unique=False
        )

    op.create_table(
        "tests",
        sa.Column("no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("nodeid", sa.Text(), nullable=False),
        sa.Column("recent", sa.Text(), nullable=False),
        sa.Column("flakiness", sa.Float(), nullable=False),
        sa.Column("mean_us", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_tests")),
        sa.UniqueConstraint("key", name=op.f("uq_tests_key")),
    )
    with op.batch_alter_table("tests", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_tests_flakiness_no"), ["flakiness", "no"], unique=False)
        batch_op.create_index(batch_op.f("ix_tests_mean_us_no"), ["mean_us", "no"], unique=False)
        batch_op.create_index(batch_op.f("ix_tests_project_flakiness_no"), ["project", "flakiness", "no"], unique=False)
        batch_op.create_index(batch_op.f("ix_tests_project_mean_us_no"), ["project", "mean_us", "no"], unique=False)

    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("hash", name=op.f("uq_tokens_hash")),
    )
    op.create_table(
        "executions",
        sa.Column("run_no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["run_no"], ["runs.no"], name=op.f("fk_executions_run_no"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_no", "job", name=op.f("pk_executions")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "failures",
        sa.Column("run_no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("test_no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("cause_no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["cause_no"], ["causes.no"], name=op.f("fk_failures_cause_no")),
        sa.ForeignKeyConstraint(["run_no"], ["runs.no"], name=op.f("fk_failures_run_no"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["test_no"], ["tests.no"], name=op.f("fk_failures_test_no")),
        sa.PrimaryKeyConstraint("run_no", "position", name=op.f("pk_failures")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("failures", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_failures_cause_no_run_no"), ["cause_no", "run_no"], unique=False)

    op.create_table(
        "results",
        sa.Column("run_no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("test_no", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("duration_us", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_no"], ["runs.no"], name=op.f("fk_results_run_no"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["test_no"], ["tests.no"], name=op.f("fk_results_test_no")),
        sa.PrimaryKeyConstraint("run_no", "position", name=op.f("pk_results")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("results", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_results_test_no_run_no"), ["test_no", "run_no"], unique=False)

    op.create_table(
        "sessions",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name=op.f("fk_sessions_token_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sessions")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sessions_token_id"), ["token_id"], unique=False)
