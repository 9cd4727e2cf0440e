"""Nodes, units and windows of budgets, alerts; the ledger, usage by day, periods, invoices, prices that were used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    text, pico, ns = sa.String, sa.String, sa.BigInteger
    op.add_column("instances", sa.Column("node", text(), nullable=False, server_default=""))
    op.add_column("budgets", sa.Column("unit", text(), nullable=False, server_default="USD"))
    op.add_column("budgets", sa.Column("ends_ns", ns(), nullable=False, server_default="0"))
    op.create_table(
        "budget_terms",
        sa.Column("name", text(), primary_key=True),
        sa.Column("terms", sa.JSON(), nullable=False),
        sa.Column("changed_ns", ns(), nullable=False),
    )
    op.create_table(
        "freezes",
        sa.Column("root", text(), primary_key=True),
        sa.Column("budget", text(), nullable=False),
        sa.Column("at_ns", ns(), nullable=False),
        sa.Column("reason", text(), nullable=False),
    )
    op.create_table(
        "nodes",
        sa.Column("node", text(), primary_key=True),
        sa.Column("token", text(), nullable=False),
        sa.Column("seen_ns", ns(), nullable=False),
        sa.Column("address", text(), nullable=False),
        sa.Column("posted_ns", ns(), nullable=False),
    )
    op.create_table(
        "alerts",
        sa.Column("budget", text(), primary_key=True),
        sa.Column("share", sa.Integer(), primary_key=True),
        sa.Column("at_ns", ns(), nullable=False),
        sa.Column("spent_pico", pico(), nullable=False),
        sa.Column("limit_pico", pico(), nullable=False),
        sa.Column("reason", text(), nullable=False),
        sa.Column("delivered_ns", ns(), nullable=False),
    )
    op.create_table(
        "prices_used",
        sa.Column("id", text(), primary_key=True),
        sa.Column("row", sa.JSON(), nullable=False),
        sa.Column("first_ns", ns(), nullable=False),
    )
    op.create_table(
        "batches",
        sa.Column("number", ns(), primary_key=True, autoincrement=False),
        sa.Column("kind", text(), nullable=False),
        sa.Column("at_ns", ns(), nullable=False),
        sa.Column("period", text(), nullable=False),
        sa.Column("reference", text(), nullable=False),
        sa.Column("node", text(), nullable=False),
        sa.Column("instance", text(), nullable=False),
        sa.Column("segment", ns(), nullable=False),
        sa.Column("segment_bytes", ns(), nullable=False),
        sa.Column("segment_digest", text(), nullable=False),
        sa.Column("document_sha256", text(), nullable=False),
        sa.Column("previous", text(), nullable=False),
        sa.Column("hash", text(), nullable=False, unique=True),
    )
    op.create_index("batches_by_segment", "batches", ["instance", "segment"])
    op.create_table(
        "postings",
        sa.Column("batch", ns(), sa.ForeignKey("batches.number"), primary_key=True),
        sa.Column("line", sa.Integer(), primary_key=True),
        sa.Column("account", text(), nullable=False),
        sa.Column("amount_pico", pico(), nullable=False),
        sa.Column("currency", text(), nullable=False),
        sa.Column("day", text(10), nullable=False),
        sa.Column("tenant", text(), nullable=False),
        sa.Column("channel", text(), nullable=False),
        sa.Column("memo", text(), nullable=False),
    )
    op.create_index("postings_by_tenant", "postings", ["tenant", "day"])
    op.create_table(
        "usage_days",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("day", text(10), nullable=False),
        sa.Column("dimensions", text(), nullable=False),  # canonical JSON of all but day and amounts
        sa.Column("digest", text(64), nullable=False),
        sa.Column("tenant", text(), nullable=False),
        sa.Column("calls", ns(), nullable=False),
        sa.Column("attempts", ns(), nullable=False),
        sa.Column("unmetered", ns(), nullable=False),
        sa.Column("meters", text(), nullable=False),
        sa.Column("cost_pico", pico(), nullable=False),
        sa.UniqueConstraint("day", "digest"),
    )
    op.create_index("usage_by_tenant", "usage_days", ["tenant", "day"])
    op.create_table(
        "periods",
        sa.Column("period", text(7), primary_key=True),
        sa.Column("closed_ns", ns(), nullable=False),
        sa.Column("batch", ns(), sa.ForeignKey("batches.number"), nullable=False),
    )
    op.create_table(
        "invoices",
        sa.Column("number", text(), primary_key=True),
        sa.Column("kind", text(), nullable=False),
        sa.Column("tenant", text(), nullable=False),
        sa.Column("period", text(7), nullable=False),
        sa.Column("refers_to", text(), nullable=False),
        sa.Column("issued_ns", ns(), nullable=False),
        sa.Column("document", text(), nullable=False),
        sa.Column("sha256", text(), nullable=False),
        sa.Column("batch", ns(), sa.ForeignKey("batches.number"), nullable=False),
    )
    first = sa.text("kind = 'invoice'")
    op.create_index(
        "invoices_once", "invoices", ["tenant", "period"], unique=True, sqlite_where=first, postgresql_where=first
    )
