"""Contracts, grants and reviews; captured pairs; datasets and models; latches and incidents; drills; conduct cases."""

from __future__ import annotations

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
