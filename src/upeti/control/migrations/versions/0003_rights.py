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
    _capture()
    _lineage()
    _conduct()
    _latches()
    _drills()


def _rights() -> None:
    op.create_table(
        "rights",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
    )


def _capture() -> None:
    text, ns = sa.String, sa.BigInteger
    op.create_table(
        "consents",
        sa.Column("id", text(), primary_key=True),
        sa.Column("tenant", text(), nullable=False),
        sa.Column("purposes", sa.JSON(), nullable=False),
        sa.Column("features", sa.JSON(), nullable=False),
        sa.Column("evidence_sha256", text(), nullable=False),
        sa.Column("evidence_name", text(), nullable=False),
        sa.Column("given_by", text(), nullable=False),
        sa.Column("why", text(), nullable=False),
        sa.Column("at_ns", ns(), nullable=False),
        sa.Column("withdrawn_ns", ns(), nullable=False),
        sa.Column("withdrawn_by", text(), nullable=False),
        sa.Column("withdrawn_why", text(), nullable=False),
    )
    op.create_table(
        "tenant_salts",
        sa.Column("tenant", text(), primary_key=True),
        sa.Column("salt", sa.LargeBinary(), nullable=False),
    )
    names = (
        "call_id",
        "tenant",
        "project",
        "key",
        "feature",
        "task",
        "user_digest",
        "route",
        "channel",
        "model",
        "wire",
    )
    rights = ("contract", "clause", "grant", "consent")
    op.create_table(
        "pairs",
        sa.Column("pair_id", text(), primary_key=True),
        sa.Column("at_ns", ns(), nullable=False),
        *(sa.Column(name, text(), nullable=False) for name in (*names, *rights)),
        sa.Column("redactions", sa.JSON(), nullable=False),
        sa.Column("request_digest", text(), nullable=False),
        sa.Column("answer_digest", text(), nullable=False),
        sa.Column("request_bytes", ns(), nullable=False),
        sa.Column("answer_bytes", ns(), nullable=False),
        sa.Column("erased_ns", ns(), nullable=False),
    )
    op.create_index("pairs_by_tenant", "pairs", ["tenant", "at_ns"])
    op.create_index("pairs_by_task", "pairs", ["task", "at_ns"])
    op.create_index("pairs_by_call", "pairs", ["call_id"])
    op.create_index("pairs_by_request", "pairs", ["request_digest"])
    op.create_index("pairs_by_answer", "pairs", ["answer_digest"])
    op.create_table(
        "left_out",
        sa.Column("day", text(10), primary_key=True),
        sa.Column("tenant", text(), primary_key=True),
        sa.Column("channel", text(), primary_key=True),
        sa.Column("reason", text(), primary_key=True),
        sa.Column("exchanges", sa.Integer(), nullable=False),
    )


def _lineage() -> None:
    text, ns = sa.String, sa.BigInteger
    op.create_table(
        "datasets",
        sa.Column("id", text(), primary_key=True),
        sa.Column("name", text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("purpose", text(), nullable=False),
        sa.Column("built_ns", ns(), nullable=False),
        sa.Column("built_by", text(), nullable=False),
        sa.Column("filters", sa.JSON(), nullable=False),
        sa.Column("directory", text(), nullable=False),
        sa.Column("rows", ns(), nullable=False),
        sa.Column("left_out", ns(), nullable=False),
        sa.Column("manifest_sha256", text(64), nullable=False),
        sa.Column("duties", sa.JSON(), nullable=False),
        sa.UniqueConstraint("name", "version"),
    )
    op.create_table(
        "dataset_rows",
        sa.Column("dataset", text(), sa.ForeignKey("datasets.id"), primary_key=True),
        sa.Column("number", ns(), primary_key=True, autoincrement=False),
        sa.Column("sha256", text(64), nullable=False),
        *(
            sa.Column(name, text(), nullable=False)
            for name in ("pair_id", "call_id", "channel", "contract", "tenant", "model")
        ),
        sa.Column("captured_ns", ns(), nullable=False),
        *(sa.Column(name, text(), nullable=False) for name in ("clause", "grant", "consent")),
    )
    for name, column in (
        ("pair", "pair_id"),
        ("call", "call_id"),
        *((one, one) for one in ("clause", "grant", "consent")),
    ):
        op.create_index(f"dataset_rows_by_{name}", "dataset_rows", [column])
    op.create_table(
        "models",
        sa.Column("id", text(), primary_key=True),
        *(sa.Column(name, text(), nullable=False) for name in ("name", "version", "purpose")),
        sa.Column("distributed", sa.Boolean(), nullable=False),
        *(
            sa.Column(name, text(), nullable=False)
            for name in ("base_model", "channel", "model", "file_name", "file_sha256")
        ),
        sa.Column("duties", sa.JSON(), nullable=False),
        sa.Column("notices", sa.JSON(), nullable=False),
        sa.Column("registered_ns", ns(), nullable=False),
        *(sa.Column(name, text(), nullable=False) for name in ("registered_by", "stage", "stage_act", "stage_why")),
        sa.Column("stage_ns", ns(), nullable=False),
    )
    op.create_table(
        "model_datasets",
        sa.Column("model", text(), sa.ForeignKey("models.id"), primary_key=True),
        sa.Column("dataset", text(), sa.ForeignKey("datasets.id"), primary_key=True),
    )
    op.create_index("model_datasets_by_dataset", "model_datasets", ["dataset"])


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


def _latches() -> None:
    op.create_table(
        "incidents",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("detail", sa.String(), nullable=False),
        sa.Column("opened_ns", sa.BigInteger(), nullable=False),
        sa.Column("meaning", sa.String(), nullable=False),
        sa.Column("signal", sa.String(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("excerpt", sa.String(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("probes", sa.BigInteger(), nullable=False),
        sa.Column("recovered_ns", sa.BigInteger(), nullable=False),
        sa.Column("recovered_by", sa.String(), nullable=False),
    )
    op.create_table(
        "latches",
        sa.Column("scope", sa.String(), primary_key=True),
        sa.Column("channel", sa.String(), primary_key=True),
        sa.Column("detail", sa.String(), primary_key=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("since_ns", sa.BigInteger(), nullable=False),
        sa.Column("incident", sa.String(), sa.ForeignKey("incidents.id"), nullable=False),
        sa.Column("meaning", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("wire", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("next_probe_ns", sa.BigInteger(), nullable=False),
    )


def _drills() -> None:
    op.create_table(
        "drills",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("from_ns", sa.BigInteger(), nullable=False),
        sa.Column("until_ns", sa.BigInteger(), nullable=False),
        sa.Column("share_millionths", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("signal", sa.String(), nullable=False),
        sa.Column("fault", sa.JSON(), nullable=False),
        sa.Column("abort_below", sa.Integer(), nullable=False),
        sa.Column("ended_ns", sa.BigInteger(), nullable=False),
        sa.Column("ended_by", sa.String(), nullable=False),
        sa.Column("ended_why", sa.String(), nullable=False),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "alternatives",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("alternative", sa.String(), nullable=False),
        sa.Column("months", sa.String(), nullable=False),
        sa.Column("cost", sa.String(), nullable=False),
        sa.Column("currency", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("removed_ns", sa.BigInteger(), nullable=False),
    )
