"""Since when starts are tried, and those that are followed found at once."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From starts that fail an hour after they were due."""
    op.add_column("starts", sa.Column("since_ms", sa.BigInteger(), server_default="0", nullable=False))
    op.execute("UPDATE starts SET since_ms = claimed_ms")
    op.create_index(op.f("ix_starts_verdict_claimed_ms"), "starts", ["verdict", "claimed_ms"])
