"""Keys, secrets, budgets, instances, leases, counters."""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("feature", sa.String(), nullable=False),
        sa.Column("routes", sa.JSON(), nullable=False),
        sa.Column("limit_pico", sa.String()),
        sa.Column("created_ns", sa.BigInteger(), nullable=False),
        sa.Column("expires_ns", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ns", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("changed_ns", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("limit_pico", sa.String(), nullable=False),
        sa.Column("spent_pico", sa.String(), nullable=False),
    )
    op.create_table(
        "instances",
        sa.Column("instance", sa.String(), primary_key=True),
        sa.Column("worker", sa.BigInteger(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("process", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
    )
    op.create_table(
        "leases",
        sa.Column("instance", sa.String(), sa.ForeignKey("instances.instance"), primary_key=True),
        sa.Column("budget", sa.String(), sa.ForeignKey("budgets.id"), primary_key=True),
        sa.Column("granted_pico", sa.String(), nullable=False),
        sa.Column("posted_pico", sa.String(), nullable=False),
    )
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("value", sa.BigInteger(), nullable=False),
    )
    first = {"changes": 0, "snapshot": 0, "created_s": int(time.time())}
    op.bulk_insert(counters, [{"name": name, "value": value} for name, value in first.items()])
