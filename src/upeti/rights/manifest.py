"""The papers of a data set: manifest, Croissant description, in-toto statement. Pure.

A manifest says what the rows are, where they are from and under which sentence each may be used; it names every file by
its SHA-256. The statement binds the files and the manifest together and is what gets signed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

STATEMENT_TYPE: Final = "application/vnd.in-toto+json"  # in-toto attestation framework, envelope
_PREDICATE_TYPE: Final = "urn:upeti:dataset-manifest:1"
MANIFEST_FILE: Final = "manifest.json"
CROISSANT_FILE: Final = "croissant.json"
STATEMENT_FILE: Final = "statement.dsse.json"
ROWS_FILE: Final = "rows.jsonl"


class LeftOut(msgspec.Struct, frozen=True):
    """Rows that are not in a data set, and why."""

    reason: str  # "deny", "ask", "consent", "erased"
    clause: str
    quote: str
    why: str
    rows: int


class Row(msgspec.Struct, frozen=True):
    """Where one row is from."""

    sha256: str  # of its line
    pair_id: str
    call_id: str
    channel: str
    contract: str
    tenant: str
    model: str
    captured_ns: int
    clause: str
    grant: str
    consent: str


class Manifest(msgspec.Struct, frozen=True):
    """What a data set is."""

    id: str
    name: str
    version: int
    purpose: str
    built_at: str
    built_by: str
    tool: str
    filters: dict[str, Any]
    rows: int
    rows_sha256: str  # over the sorted hashes of all rows
    by_channel: dict[str, int]
    by_contract: dict[str, int]
    by_clause: dict[str, int]
    by_grant: dict[str, int]
    by_consent: dict[str, int]
    own_rows: int  # brought by the operator, from no provider
    first_captured: str
    last_captured: str
    redactions: dict[str, int]
    duties: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    files: dict[str, str]  # name → SHA-256


def rows_digest(hashes: Iterable[str]) -> str:
    """Return one hash for a set of rows, whatever their order."""
    return hashlib.sha256("\n".join(sorted(hashes)).encode()).hexdigest()


def counted(rows: Iterable[Row], field: str) -> dict[str, int]:
    """Return how many rows have each value of a field; rows without one are left out."""
    found = Counter(getattr(row, field) for row in rows)
    found.pop("", None)
    return dict(sorted(found.items()))


def day(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns / 10**9, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def encoded(paper: object) -> bytes:
    """Return a paper as JSON that people can read and that is the same each time."""
    return msgspec.json.format(msgspec.json.encode(paper, order="deterministic"), indent=2) + b"\n"


def statement(manifest: Manifest, files: dict[str, str]) -> bytes:
    """Return an in-toto Statement (v1) about the files, with the manifest as its predicate."""
    return encoded(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(files.items())],
            "predicateType": _PREDICATE_TYPE,
            "predicate": msgspec.to_builtins(manifest),
        }
    )


# MLCommons Croissant 1.1, "Croissant in JSON-LD": the context that the format prescribes.
_CONTEXT: Final[dict[str, Any]] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TEXT_FIELDS: Final = {
    "pair_id": "Name of the pair: the call and the attempt.",
    "channel": "Contract party, account and endpoint that answered.",
    "model": "The model that answered.",
    "contract": "Contract version in force when it was captured.",
    "clause": "Sentence of the contract under which it may be used.",
    "task": "The recurring job that the call was for.",
}


def croissant(manifest: Manifest, rows_bytes: int) -> bytes:
    """Return the data set's description as Croissant JSON-LD."""
    collection = (
        f"Questions to and answers of paid models, captured with consent by {manifest.tool}; redacted before storage; "
        f"every row is permitted for the purpose {manifest.purpose} by the clause that it names."
    )
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"rows/{name}",
            "name": name,
            "description": about,
            "dataType": "sc:Text",
            "source": {"fileObject": {"@id": ROWS_FILE}, "extract": {"column": name}},
        }
        for name, about in _TEXT_FIELDS.items()
    ]
    return encoded(
        {
            "@context": _CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": "http://mlcommons.org/croissant/1.0",
            "name": manifest.name,
            "version": f"{manifest.version}.0.0",
            "description": f"{manifest.rows} rows for the purpose {manifest.purpose}.",
            "datePublished": manifest.built_at,
            "license": "Use is limited to what the manifest's clauses permit; not for publication.",
            "url": f"urn:upeti:dataset:{manifest.id}",
            "creator": {"@type": "Person", "name": manifest.built_by},
            "rai:dataCollection": collection,
            "rai:personalSensitiveInformation": [f"{kind} (redacted)" for kind in manifest.redactions]
            or ["none found"],
            "distribution": [
                {
                    "@type": "cr:FileObject",
                    "@id": ROWS_FILE,
                    "name": ROWS_FILE,
                    "contentUrl": ROWS_FILE,
                    "contentSize": f"{rows_bytes} B",
                    "encodingFormat": "application/jsonlines",
                    "sha256": manifest.files[ROWS_FILE],
                }
            ],
            "recordSet": [{"@type": "cr:RecordSet", "@id": "rows", "name": "rows", "field": fields}],
        }
    )
