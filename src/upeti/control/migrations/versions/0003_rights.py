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
    _conduct()


def _rights() -> None:
    op.create_table(
        "rights",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
    )


def _conduct() -> None:
    op.create_table(
        "cases",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("tenants", sa.JSON(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("families", sa.JSON(), nullable=False),
        sa.Column("opened_ns", sa.BigInteger(), nullable=False),
        sa.Column("changed_ns", sa.BigInteger(), nullable=False),
        sa.Column("until_ns", sa.BigInteger(), nullable=False),
        sa.Column("suspended_ns", sa.BigInteger(), nullable=False),
        sa.Column("suspended_by", sa.String(), nullable=False),
        sa.Column("bundle_events", sa.Integer(), nullable=False),
        sa.Column("bundle_sha256", sa.String(), nullable=False),
    )
    op.create_table(
        "case_events",
        sa.Column("case_id", sa.String(), sa.ForeignKey("cases.id"), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("act", sa.String(), nullable=False),
        sa.Column("evidence", sa.String(), nullable=False),
    )
    op.create_table(
        "declared_purposes",
        sa.Column("tenant", sa.String(), primary_key=True),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("declared_by", sa.String(), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
    )
