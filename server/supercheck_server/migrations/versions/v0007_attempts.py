"""Runs are found by the CI job that started them."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From runs whose attempts stood alone."""
    op.create_index(op.f("ix_runs_project_url"), "runs", ["project", "url"])
