"""Files of projects."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From runs in place only."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "packs",
        sa.Column("no", number, autoincrement=True, nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("made_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_packs")),
        sa.UniqueConstraint("folder", "name", name=op.f("uq_packs_folder_name")),
    )
    op.create_index(op.f("ix_packs_made_ms"), "packs", ["made_ms"])
    op.create_table(
        "pieces",
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("piece", sa.Text(), nullable=False),
        sa.Column("pack_no", number, nullable=False),
        sa.Column("offset", sa.Integer(), nullable=False),
        sa.Column("stored", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["pack_no"], ["packs.no"], name=op.f("fk_pieces_pack_no"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("folder", "piece", name=op.f("pk_pieces")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_pieces_pack_no"), "pieces", ["pack_no"])
    op.create_table(
        "bundles",
        sa.Column("no", number, autoincrement=True, nullable=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("used_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("no", name=op.f("pk_bundles")),
        sa.UniqueConstraint("folder", "id", name=op.f("uq_bundles_folder_id")),
    )
    op.create_index(op.f("ix_bundles_used_ms"), "bundles", ["used_ms"])
    op.create_table(
        "bundle_packs",
        sa.Column("bundle_no", number, nullable=False),
        sa.Column("pack_no", number, nullable=False),
        sa.ForeignKeyConstraint(
            ["bundle_no"], ["bundles.no"], name=op.f("fk_bundle_packs_bundle_no"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["pack_no"], ["packs.no"], name=op.f("fk_bundle_packs_pack_no")),
        sa.PrimaryKeyConstraint("bundle_no", "pack_no", name=op.f("pk_bundle_packs")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_bundle_packs_pack_no"), "bundle_packs", ["pack_no"])
