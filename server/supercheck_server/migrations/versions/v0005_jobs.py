"""Jobs and their starts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From runs that people and programs start."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "jobs",
        sa.Column("no", number, autoincrement=True, nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("checksum", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("bundle", sa.Text(), nullable=False),
        sa.Column("overrides", sa.Text(), nullable=False),
        sa.Column("enabled", sa.SmallInteger(), nullable=False),
        sa.Column("synced_ms", sa.BigInteger(), nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("next_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_jobs")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_jobs_project_name")),
    )
    op.create_index(op.f("ix_jobs_enabled_next_ms"), "jobs", ["enabled", "next_ms"])
    op.create_table(
        "starts",
        sa.Column("no", number, autoincrement=True, nullable=False),
        sa.Column("job_no", number, nullable=False),
        sa.Column("due_ms", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("claimed_ms", sa.BigInteger(), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["job_no"], ["jobs.no"], name=op.f("fk_starts_job_no"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_starts")),
        sa.UniqueConstraint("job_no", "due_ms", name=op.f("uq_starts_job_no_due_ms")),
        sa.UniqueConstraint("run", name=op.f("uq_starts_run")),
    )
    op.create_index(op.f("ix_starts_state_claimed_ms"), "starts", ["state", "claimed_ms"])
