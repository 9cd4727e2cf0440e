"""Tables of lineage: data sets, of which rows they are made, and the models that were trained on them."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, ForeignKey, Index, Integer, String, Table, UniqueConstraint

from upeti.control.tables import metadata

datasets = Table(
    "datasets",
    metadata,
    Column("id", String, primary_key=True),  # NAME@VERSION
    Column("name", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("purpose", String, nullable=False),
    Column("built_ns", BigInteger, nullable=False),
    Column("built_by", String, nullable=False),
    Column("filters", JSON, nullable=False),  # what was asked for
    Column("directory", String, nullable=False),  # where its files are, on the machine that built it
    Column("rows", BigInteger, nullable=False),
    Column("left_out", BigInteger, nullable=False),
    Column("manifest_sha256", String(64), nullable=False),
    Column("duties", JSON, nullable=False),
    UniqueConstraint("name", "version"),
)

# Where each row is from, as it was captured: what a right is decided by, though the pair itself be erased.
dataset_rows = Table(
    "dataset_rows",
    metadata,
    Column("dataset", String, ForeignKey("datasets.id"), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("sha256", String(64), nullable=False),
    Column("pair_id", String, nullable=False),  # "": a row of one's own, from no provider
    Column("call_id", String, nullable=False),
    Column("channel", String, nullable=False),
    Column("contract", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("model", String, nullable=False),
    Column("captured_ns", BigInteger, nullable=False),
    Column("clause", String, nullable=False),  # that permitted it when the data set was built
    Column("grant", String, nullable=False),
    Column("consent", String, nullable=False),
    Index("dataset_rows_by_pair", "pair_id"),
    Index("dataset_rows_by_call", "call_id"),
    Index("dataset_rows_by_clause", "clause"),
    Index("dataset_rows_by_grant", "grant"),
    Index("dataset_rows_by_consent", "consent"),
)

models = Table(
    "models",
    metadata,
    Column("id", String, primary_key=True),  # NAME@VERSION
    Column("name", String, nullable=False),
    Column("version", String, nullable=False),
    Column("purpose", String, nullable=False),
    Column("distributed", Boolean, nullable=False),
    Column("base_model", String, nullable=False),
    Column("channel", String, nullable=False),  # at which it is served; "": nowhere yet
    Column("model", String, nullable=False),  # its name there
    Column("file_name", String, nullable=False),
    Column("file_sha256", String, nullable=False),
    Column("duties", JSON, nullable=False),
    Column("notices", JSON, nullable=False),  # what it is shown with
    Column("registered_ns", BigInteger, nullable=False),
    Column("registered_by", String, nullable=False),
    Column("stage", String, nullable=False),
    Column("stage_act", String, nullable=False),  # that put it there
    Column("stage_why", String, nullable=False),
    Column("stage_ns", BigInteger, nullable=False),
)

model_datasets = Table(
    "model_datasets",
    metadata,
    Column("model", String, ForeignKey("models.id"), primary_key=True),
    Column("dataset", String, ForeignKey("datasets.id"), primary_key=True),
    Index("model_datasets_by_dataset", "dataset"),
)
