"""A real Upeti that keeps pairs: two tenants, one of which consents; a contract that permits storing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.upeti_process import CONFIG, UpetiProcess
from upeti.control import consents, pairs
from upeti.control.rights import Document
from upeti.control.store import Store
from upeti.journal.bodies import Bodies, bodies_at

TERMS = """\
[[contract]]
id = "sim-terms"
party = "Sim"
family = "sim"
document = "Terms of the fake provider"
version = "1"
from = 2026-01-01
source = "made up for the tests"
source_date = 2026-11-27

[[clause]]
id = "sim-terms/1"
contract = "sim-terms"
section = "1"
allow = ["store", "classify_internal"]
quote = "You may keep what you get, and sort with it."
source = "made up for the tests"
source_date = 2026-11-27
reviewed_by = "legal"
reviewed_at = 2026-11-27
review_why = "read it"
"""
CAPTURE = """
[rights]
terms_files = ["terms.toml"]

[[contract]]
channel = "sim"
contract = "sim-terms"
from = 2026-01-01

[capture]
enabled = true

[[key]]
id = "k2"
tenant = "beta"
secret = "env:UPETI_TEST_KEY_2"
"""
DOCUMENT = Document("letter.txt", b"We agree that our calls are kept.")


def consent(data_dir: Path, tenant: str, **changes: Any) -> consents.Consent:
    store = Store(data_dir)
    try:
        options = {"purposes": ("classify_internal",), "evidence": DOCUMENT, "by": "legal", "why": "letter of today"}
        return consents.give(store, tenant, **(options | changes))
    finally:
        store.close()


def kept(data_dir: Path, **where: Any) -> list[pairs.Pair]:
    store = Store(data_dir)
    try:
        return list(pairs.find(store, **where))
    finally:
        store.close()


def bodies(data_dir: Path) -> Bodies:
    return bodies_at(data_dir, "")


def capturing(folder: Path, provider_port: int) -> UpetiProcess:
    """Return an Upeti, not started yet, that would keep what tenants consent to."""
    (folder / "terms.toml").write_text(TERMS)
    return UpetiProcess(folder, CONFIG.format(port=provider_port) + CAPTURE)
