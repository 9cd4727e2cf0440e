"""Consents: signed, on record first, one in force for a tenant, never edited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from upeti.control import consents
from upeti.control.rights import Document, evidence_dir
from upeti.control.store import Store, StoreError
from upeti.core.errors import ConfigError
from upeti.journal.acts import read_acts

OpenStore = Callable[[], Store]
LETTER = Document("letter.txt", b"We agree.")


def give(store: Store, tenant: str = "acme", **changes: Any) -> consents.Consent:
    options: dict[str, Any] = {"purposes": ("evaluate",), "evidence": LETTER, "by": "legal", "why": "letter"}
    return consents.give(store, tenant, **(options | changes))


def test_a_consent_holds_until_it_is_withdrawn(open_store: OpenStore) -> None:
    store = open_store()
    before = store.changes()
    made = give(store, purposes=("evaluate", "evaluate", "embed"), features=("search", "chat"))
    assert store.changes() > before, "workers learn of it"
    assert (made.purposes, made.features) == (("embed", "evaluate", "store"), ("chat", "search"))
    assert consents.in_force(open_store()) == {"acme": made}
    assert (evidence_dir(store.data_dir) / made.evidence_sha256).read_bytes() == LETTER.data
    assert [made.covers(purpose) for purpose in ("store", "evaluate", "general_model")] == [True, True, False]
    before = store.changes()
    ended = consents.withdraw(store, "acme", by="head of platforms", why="another letter")
    assert store.changes() > before
    assert consents.in_force(store) == {}
    assert consents.all_consents(store) == [ended]
    assert (ended.withdrawn_by, ended.withdrawn_why, ended.covers("store")) == (
        "head of platforms",
        "another letter",
        False,
    )
    assert [(one.kind, one.subject, one.actor) for one in read_acts(store.data_dir)] == [
        ("capture.consented", made.id, "legal"),
        ("capture.withdrawn", made.id, "head of platforms"),
    ]


def test_a_new_one_takes_the_place_of_the_one_before(open_store: OpenStore) -> None:
    store = open_store()
    first, theirs = give(store), give(store, "beta")
    second = give(store, purposes=())
    assert consents.in_force(store) == {"acme": second, "beta": theirs}
    assert second.purposes == ("store",)
    (old,) = (one for one in consents.all_consents(store) if one.id == first.id)
    assert old.withdrawn_why == f"replaced by {second.id}"
    bare = {"withdrawn_ns": 0, "withdrawn_by": "", "withdrawn_why": ""}
    assert msgspec.structs.replace(old, **bare) == first, "what it said stays"


def test_what_is_not_signed_or_not_known_changes_nothing(open_store: OpenStore) -> None:
    store = open_store()
    for wrong, what in (
        ({"by": " "}, "a name and a reason"),
        ({"why": ""}, "a name and a reason"),
        ({"purposes": ("everything",)}, "`everything` is no purpose"),
        ({"purposes": ("serve",)}, "`serve` is no purpose of what is kept"),
    ):
        with pytest.raises(ConfigError, match=what):
            give(store, **wrong)
    with pytest.raises(StoreError, match="has no consent in force"):
        consents.withdraw(store, "acme", by="legal", why="letter")
    with pytest.raises(ConfigError, match="a name and a reason"):
        consents.withdraw(store, "acme", by="", why="letter")
    assert consents.all_consents(store) == []
    assert list(read_acts(store.data_dir)) == []
