"""Own models that answer under a certificate, and their certificates."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "students",
        sa.Column("model", sa.String(), sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("form", sa.JSON(), nullable=False),
        sa.Column("template", sa.JSON(), nullable=False),
        sa.Column("teacher_channel", sa.String(), nullable=False),
        sa.Column("teacher_model", sa.String(), nullable=False),
        sa.Column("sticky", sa.Boolean(), nullable=False),
        sa.Column("audit_share", sa.Float(), nullable=False),
        sa.Column("training_cost", sa.String(), nullable=False),
        sa.Column("certificate", sa.String(), nullable=False),
        sa.Column("audited_in_stage", sa.Integer(), nullable=False),
        sa.Column("heard_ns", sa.BigInteger(), nullable=False),
    )
    op.create_index("students_by_task", "students", ["task"])
    op.create_table(
        "student_certificates",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("model", sa.String(), sa.ForeignKey("models.id"), nullable=False),
        sa.Column("made_ns", sa.BigInteger(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("target", sa.JSON(), nullable=False),
        sa.Column("delta", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("lapses_after_days", sa.Integer(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.Column("statement", sa.LargeBinary(), nullable=False),
        sa.Column("audits", sa.JSON(), nullable=False),
        sa.Column("counted", sa.JSON(), nullable=False),
    )
    op.create_index("student_certificates_by_model", "student_certificates", ["model"])
