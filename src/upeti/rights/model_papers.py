"""The papers of an own model: a CycloneDX bill of materials, and a draft of the EU's training-content summary. Pure.

Both are made from lineage: manifests of data sets, contracts and clauses. What lineage does not know is left to a person
and says so.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from upeti.rights.manifest import Manifest, day, encoded

# A name space of our own for serial numbers: the same model and data give the same bill.
_SERIALS: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:upeti:bill-of-materials")
_TO_FILL: Final = "*(to be filled in by a person)*"


class About(msgspec.Struct, frozen=True):
    """What the papers need to know of a model."""

    id: str
    name: str
    version: str
    purpose: str
    distributed: bool
    base_model: str
    file_name: str
    file_sha256: str
    notices: tuple[str, ...]
    duties: tuple[str, ...]
    registered_ns: int
    registered_by: str


class Source(msgspec.Struct, frozen=True):
    """A data set that a model was trained on."""

    manifest: Manifest
    manifest_sha256: str


def bill_of_materials(model: About, sources: Sequence[Source], tool_version: str) -> bytes:
    """Return a CycloneDX 1.7 ML-BOM in JSON: the model, its data sets by their manifests, and what they depend on."""
    reference = f"model:{model.id}"
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": model.name,
        "version": model.version,
        "description": f"Own model for the purpose {model.purpose}.",
        "authors": [{"name": model.registered_by}],
        "modelCard": {
            "modelParameters": {
                "task": model.purpose,
                "datasets": [{"ref": f"dataset:{source.manifest.id}"} for source in sources],
            },
            "considerations": {"useCases": [_use(model)], "technicalLimitations": list(model.duties) or ["none known"]},
        },
        "properties": [
            {"name": "upeti:purpose", "value": model.purpose},
            {"name": "upeti:distributed", "value": str(model.distributed).lower()},
            *({"name": "upeti:duty", "value": duty} for duty in model.duties),
            *({"name": "upeti:notice", "value": notice} for notice in model.notices),
        ],
    }
    if model.file_sha256:
        component["hashes"] = [{"alg": "SHA-256", "content": model.file_sha256}]
    if model.base_model:
        component["pedigree"] = {
            "ancestors": [{"type": "machine-learning-model", "name": model.base_model}],
            "notes": "Fine-tuned from this model.",
        }
    return encoded(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.7",
            "serialNumber": f"urn:uuid:{uuid.uuid5(_SERIALS, _everything(model, sources))}",
            "version": 1,
            "metadata": {
                "timestamp": day(model.registered_ns),
                "tools": {"components": [{"type": "application", "name": "Upeti", "version": tool_version}]},
                "component": component,
            },
            "components": [_data_component(source) for source in sources],
            "dependencies": [
                {"ref": reference, "dependsOn": [f"dataset:{source.manifest.id}" for source in sources]},
                *({"ref": f"dataset:{source.manifest.id}"} for source in sources),
            ],
        }
    )


def _use(model: About) -> str:
    return "Given to others." if model.distributed else "Used within the organisation; not given to others."


def _everything(model: About, sources: Sequence[Source]) -> str:
    return "\n".join((model.id, model.file_sha256, *(source.manifest_sha256 for source in sources)))


def _data_component(source: Source) -> dict[str, Any]:
    manifest = source.manifest
    counts = (("channel", manifest.by_channel), ("contract", manifest.by_contract), ("clause", manifest.by_clause))
    more = (("grant", manifest.by_grant), ("consent", manifest.by_consent))
    return {
        "type": "data",
        "bom-ref": f"dataset:{manifest.id}",
        "name": manifest.name,
        "version": str(manifest.version),
        "hashes": [{"alg": "SHA-256", "content": source.manifest_sha256}],
        "data": [
            {
                "type": "dataset",
                "name": manifest.id,
                "contents": {"properties": [{"name": "upeti:rows-sha256", "value": manifest.rows_sha256}]},
                "classification": "redacted questions and answers",
                "sensitiveData": [f"{kind}: {count} (redacted)" for kind, count in manifest.redactions.items()],
                "governance": {"custodians": [{"contact": {"name": manifest.built_by}}]},
            }
        ],
        "properties": [
            {"name": f"upeti:{kind}", "value": f"{name}: {rows} rows"}
            for kind, names in (*counts, *more)
            for name, rows in names.items()
        ],
    }


def training_summary(model: About, sources: Sequence[Source], clauses: dict[str, str]) -> str:
    """Return a draft of the public summary of training content (AI Act, Article 53(1)(d)), as Markdown.

    ``clauses`` is clause → its words. The headings follow the Commission's template of July 2025.
    """
    lines = [
        f"# Public summary of training content: {model.name} {model.version}",
        "",
        "**Draft, made from lineage. A person checks it, fills in what is marked, and decides whether the duty applies at all:",
        "it is one of providers of general-purpose models.**",
        "",
        "## 1. General information",
        "",
        f"- Provider: {_TO_FILL}",
        f"- Model: {model.name}, version {model.version}, registered on {day(model.registered_ns)}",
        f"- Depends on: {model.base_model or 'no other model'}",
        f"- Purpose: {model.purpose}. {_use(model)}",
        "- Modality: text",
        f"- Size of the training data: {sum(one.manifest.rows for one in sources):,} rows of questions and answers",
        "",
        "## 2. Data sources",
        "",
        "### 2.1 Publicly available data sets",
        "",
        f"None that lineage knows of. {_TO_FILL}",
        "",
        "### 2.2 Private data sets obtained from third parties",
        "",
        "None that lineage knows of." + f" {_TO_FILL}",
        "",
        "### 2.3 Data crawled or scraped from online sources",
        "",
        f"None: data sets here are made of calls only. {_TO_FILL}",
        "",
        "### 2.4 User data",
        "",
        *_user_data(sources),
        "",
        "### 2.5 Synthetic data",
        "",
        *_synthetic(sources, clauses),
        "",
        "### 2.6 Other sources",
        "",
        f"{sum(one.manifest.own_rows for one in sources):,} rows were labelled by the operator.",
        "",
        "## 3. Data processing",
        "",
        "- Rights: every row was let in by a decision over the contract version in force when it was captured; rows without a",
        "  right were left out: " + _left_out(sources),
        f"- Removal of personal data: redacted before storage ({_redacted(sources)})",
        f"- Copyright reservations and illegal content: {_TO_FILL}",
        "",
        "## Data sets",
        "",
        "| data set | rows | captured | SHA-256 of its manifest |",
        "|---|---|---|---|",
        *(
            f"| {one.manifest.id} | {one.manifest.rows:,} | {one.manifest.first_captured[:10]} to "
            f"{one.manifest.last_captured[:10]} | `{one.manifest_sha256}` |"
            for one in sources
        ),
        "",
    ]
    return "\n".join(lines)


def _user_data(sources: Sequence[Source]) -> Iterable[str]:
    consents = sorted({name for one in sources for name in one.manifest.by_consent})
    yield "Questions were written by users of the operator's services, or by those services for them."
    yield f"Tenants consented: {', '.join(consents) or 'none'}."


def _synthetic(sources: Sequence[Source], clauses: dict[str, str]) -> Iterable[str]:
    yield "Answers were made by the models of these channels, each under the sentence beside it:"
    yield ""
    yield "| contract | rows |"
    yield "|---|---|"
    for one in sources:
        for contract, rows in one.manifest.by_contract.items():
            yield f"| {contract} | {rows:,} |"
    yield ""
    for clause in sorted({name for one in sources for name in one.manifest.by_clause}):
        yield f"- `{clause}`: “{clauses.get(clause) or 'its words are not at hand'}”"


def _left_out(sources: Sequence[Source]) -> str:
    total = sum(reason.rows for one in sources for reason in one.manifest.left_out)
    return f"{total:,} rows, listed with their clauses in the manifests."


def _redacted(sources: Sequence[Source]) -> str:
    kinds: dict[str, int] = {}
    for one in sources:
        for kind, count in one.manifest.redactions.items():
            kinds[kind] = kinds.get(kind, 0) + count
    return ", ".join(f"{kind} {count:,}" for kind, count in sorted(kinds.items())) or "nothing was found to redact"
