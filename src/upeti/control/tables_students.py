"""Tables of own models that answer under a certificate: what each is, and the certificates that it was given."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, ForeignKey, Index, Integer, LargeBinary, String, Table

from upeti.control.tables import metadata

students = Table(
    "students",
    metadata,
    Column("model", String, ForeignKey("models.id"), primary_key=True),
    Column("task", String, nullable=False),
    Column("folder", String, nullable=False),  # below the data directory
    Column("sha256", String, nullable=False),  # of the folder
    Column("form", JSON, nullable=False),  # of its answers
    Column("template", JSON, nullable=False),  # that its calls match
    Column("teacher_channel", String, nullable=False),
    Column("teacher_model", String, nullable=False),
    Column("sticky", Boolean, nullable=False),
    Column("audit_share", Float, nullable=False),  # at least this much in every stage that answers
    Column("training_cost", String, nullable=False),  # decimal USD
    Column("certificate", String, nullable=False),  # in force; "": none
    Column("audited_in_stage", Integer, nullable=False),  # audits before it came into its stage
    Column(
        "heard_ns", BigInteger, nullable=False
    ),  # when something last spoke for the certificate: its making, an audit
    Index("students_by_task", "task"),
)

student_certificates = Table(
    "student_certificates",
    metadata,
    Column("id", String, primary_key=True),
    Column("model", String, ForeignKey("models.id"), nullable=False),
    Column("made_ns", BigInteger, nullable=False),
    Column("made_by", String, nullable=False),
    Column("target", JSON, nullable=False),
    Column("delta", Float, nullable=False),
    Column("threshold", Float, nullable=False),
    Column("lapses_after_days", Integer, nullable=False),  # without an audit
    Column("facts", JSON, nullable=False),  # coverage, agreement, rows: for people
    Column("statement", LargeBinary, nullable=False),  # signed
    Column("audits", JSON, nullable=False),  # all that is kept of them: learning/audit.State
    Column("counted", JSON, nullable=False),  # calls and answers by node, of which the audited were drawn
    Index("student_certificates_by_model", "model"),
)
