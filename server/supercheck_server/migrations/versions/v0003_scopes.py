"""What tokens are good for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From tokens that were good for everything: those that there are stay so."""
    op.add_column("tokens", sa.Column("project", sa.Text(), server_default="", nullable=False))
    op.add_column("tokens", sa.Column("scope", sa.Text(), server_default="admin", nullable=False))
