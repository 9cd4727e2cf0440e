"""Kept pairs made without a gateway, under terms of two contracts: one permits, one denies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from upeti.control import consents, pairs
from upeti.control.rights import Document
from upeti.control.store import Store
from upeti.core.events import PairCaptured
from upeti.journal.bodies import Bodies, bodies_at
from upeti.rights import terms_files
from upeti.rights.terms import Binding, Terms

DAY_NS = 86_400 * 10**9
START_NS = 1_790_000_000 * 10**9
TERMS = """\
[[contract]]
id = "kind-1"
party = "Kind"
family = "kind"
document = "Terms of Kind"
version = "1"
from = 2026-01-01
source = "made up for the tests"
source_date = 2026-11-27

[[clause]]
id = "kind-1/1"
contract = "kind-1"
section = "1"
allow = ["store", "classify_internal", "classify_distributed"]
duties = ["name_prefix:Kind", "notice:Built with Kind"]
quote = "You may sort with what we answer, and name it after us."
source = "made up for the tests"
source_date = 2026-11-27
reviewed_by = "legal"
reviewed_at = 2026-01-02
review_why = "read it"

[[contract]]
id = "strict-1"
party = "Strict"
family = "strict"
document = "Terms of Strict"
version = "1"
from = 2026-01-01
source = "made up for the tests"
source_date = 2026-11-27

[[clause]]
id = "strict-1/3"
contract = "strict-1"
section = "3"
deny = ["classify_internal", "general_model"]
ask = ["classify_distributed"]
quote = "You must not train on what we answer."
source = "made up for the tests"
source_date = 2026-11-27
unless_authorized = true
"""
DOCUMENT = Document("letter.txt", b"We agree.")


def terms(folder: Path, **changes: Any) -> Terms:
    path = folder / "terms.toml"
    path.write_text(TERMS)
    facts = terms_files.load([str(path)])
    bindings = tuple(Binding(f"b-{name}", name, f"{name}-1", 0) for name in ("kind", "strict"))
    made = {"contracts": facts.contracts, "clauses": facts.clauses, "reviews": facts.reviews, "bindings": bindings}
    return Terms(**(made | {"channels": frozenset({"kind", "strict"})} | changes))


def consent(store: Store, tenant: str = "acme", **changes: Any) -> consents.Consent:
    options = {
        "purposes": ("classify_internal", "classify_distributed"),
        "evidence": DOCUMENT,
        "by": "legal",
        "why": "letter",
    }
    return consents.give(store, tenant, **(options | changes))


def bodies(store: Store) -> Bodies:
    return bodies_at(store.data_dir, "")


def capture(store: Store, number: int, channel: str = "kind", tenant: str = "acme", **changes: Any) -> PairCaptured:
    """Keep one pair as the capturing process does."""
    salt = pairs.salt_of(store, tenant)
    asked = json.dumps({"messages": [{"role": "user", "content": f"question {number}"}]}).encode()
    answered = json.dumps({"choices": [{"message": {"content": f"answer {number}"}}]}).encode()
    digests = [bodies(store).put(salt, data) for data in (asked, answered)]
    fields: dict[str, Any] = {
        "pair_id": f"req_{number:04d}-0",
        "at_ns": START_NS + number * DAY_NS,
        "call_id": f"req_{number:04d}",
        "tenant": tenant,
        "project": "shop",
        "key": "k1",
        "feature": "mail",
        "task": "topic",
        "user_digest": "",
        "route": "m",
        "channel": channel,
        "model": "m",
        "wire": "chat_completions",
        "contract": f"{channel}-1",
        "clause": f"{channel}-1/1",
        "grant": "",
        "consent": "con_1",
        "redactions": {"EMAIL": 1},
        "request_digest": digests[0],
        "answer_digest": digests[1],
        "request_bytes": len(asked),
        "answer_bytes": len(answered),
    }
    record = PairCaptured(**(fields | changes))
    pairs.keep(store, [record])
    return record
