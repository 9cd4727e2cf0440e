"""Contracts, grants and reviews; captured pairs; datasets and models; latches and incidents; drills; conduct cases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _rights()


def _rights() -> None:
    op.create_table(
        "rights",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
    )
