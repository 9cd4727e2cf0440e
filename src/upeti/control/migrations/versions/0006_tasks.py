"""Declared tasks, and agreements of teachers with themselves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _tasks()


def _tasks() -> None:
    text, ns = sa.String, sa.BigInteger
    op.create_table(
        "tasks",
        sa.Column("name", text(), primary_key=True),
        sa.Column("tag", text(), nullable=False),
        sa.Column("template_sha256", sa.String(64), nullable=False),
        sa.Column("declared_ns", ns(), nullable=False),
        sa.Column("declaration", sa.JSON(), nullable=False),
    )
    op.create_table(
        "agreements",
        sa.Column("task", text(), primary_key=True),
        sa.Column("at_ns", ns(), primary_key=True, autoincrement=False),
        sa.Column("route", text(), nullable=False),
        sa.Column("channel", text(), nullable=False),
        sa.Column("model", text(), nullable=False),
        sa.Column("asked", sa.Integer(), nullable=False),
        sa.Column("agreed", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("cost", text(), nullable=False),
        sa.Column("currency", text(), nullable=False),
    )
