"""Rights in the state: on record before they count, added and never edited away, evidence kept under its hash."""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from upeti.control import rights
from upeti.control.config_file import parse
from upeti.control.rights import CONFIRM, Document, document_of, evidence_dir, terms_in_force
from upeti.control.store import Store, StoreError
from upeti.core.config import Config
from upeti.core.errors import ConfigError, JournalError
from upeti.journal.acts import read_acts
from upeti.rights.permit import Decision, permit, purposes_until
from upeti.rights.terms import FOREVER_NS, Terms

OpenStore = Callable[[], Store]
CONTRACT = "openai-services-2026-01-01"
CLAUSE = f"{CONTRACT}/permitted-exception-a"
LETTER = Document("letter.txt", b"You may.")
ANN = {"by": "head of risk", "why": "read it"}
SECOND_NS = 10**9
CHANNEL = '[[channel]]\nname = "main"\nkind = "openai_compatible"\n'


def config(tmp_path: Path, more: str = "") -> Config:
    return parse(CHANNEL + more, tmp_path / "upeti.toml").config


World = tuple[Store, Callable[[], Terms]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    store, settings = Store(tmp_path / "data"), config(tmp_path)
    yield store, lambda: terms_in_force(store, settings)
    store.close()


def decided(terms: Terms, purpose: str, at_ns: int = 0) -> Decision:
    at_ns = at_ns or time.time_ns()
    return permit(terms, terms.origin_now("main", at_ns), purpose, at_ns).decision


def test_what_was_said_comes_back_and_decides(open_store: OpenStore, tmp_path: Path) -> None:
    """In SQLite and in PostgreSQL; the other tests are about what is decided, whatever keeps it."""
    store, settings = open_store(), config(tmp_path)

    def terms() -> Terms:
        return terms_in_force(store, settings)

    assert decided(terms(), "classify_internal") is Decision.DENY
    changes = store.changes()
    rights.bind(store, terms(), "main", CONTRACT, from_ns=1, **ANN)
    assert decided(terms(), "classify_internal") is Decision.ASK
    rights.review(store, terms(), CLAUSE, CONFIRM, **ANN)
    assert decided(terms(), "classify_internal") is Decision.ALLOW
    before_ns = time.time_ns()
    made = rights.grant(store, terms(), "main", "general_model", LETTER, **ANN)
    assert decided(terms(), "general_model") is Decision.ALLOW
    revoked = rights.revoke(store, made.id, by="Ben", why="they took it back")
    assert (revoked.revoked_by, terms().grants) == ("Ben", (revoked,))
    assert decided(terms(), "general_model") is Decision.DENY
    assert decided(terms(), "general_model", before_ns) is Decision.DENY
    assert store.changes() == changes + 4  # workers hear of each


def test_every_decision_is_an_act_before_it_is_in_the_state(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store, terms = world
    rights.deny(store, ["main"], "main", "store", **ANN)
    (done,) = read_acts(store.data_dir)
    assert (done.actor, done.kind, done.reason, done.subject) == (
        "head of risk",
        "rights.denied",
        "read it",
        terms().denials[0].id,
    )

    def full(*_: object) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr(rights, "record_acts", full)
    with pytest.raises(JournalError):
        rights.lift(store, done.subject, **ANN)
    with pytest.raises(JournalError):
        rights.deny(store, ["main"], "main", "embed", **ANN)
    assert [(one.purpose, one.lifted_ns) for one in terms().denials] == [("store", 0)]


def test_nothing_is_decided_by_nobody_or_for_no_reason(world: World) -> None:
    store, terms = world
    for who in ({"by": "", "why": "x"}, {"by": "Ann", "why": "  "}):
        with pytest.raises(ConfigError, match="give --by and --why"):
            rights.bind(store, terms(), "main", CONTRACT, from_ns=1, **who)
    assert list(read_acts(store.data_dir)) == []


def test_evidence_is_kept_under_its_hash_for_the_owner_alone(world: World) -> None:
    store, terms = world
    rights.bind(store, terms(), "main", CONTRACT, from_ns=1, **ANN)
    made = rights.grant(store, terms(), "main", "resell", LETTER, **ANN)
    kept = evidence_dir(store.data_dir) / hashlib.sha256(b"You may.").hexdigest()
    assert made.evidence_sha256 == kept.name
    assert kept.read_bytes() == b"You may."
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    rights.grant(store, terms(), "main", "resell", LETTER, **ANN)
    assert [one.name for one in kept.parent.iterdir()] == [kept.name]


def test_a_grant_is_of_a_party_to_the_contract(world: World) -> None:
    store, terms = world
    with pytest.raises(ConfigError, match="has no contract in force"):
        rights.grant(store, terms(), "main", "resell", LETTER, **ANN)
    rights.bind(store, terms(), "main", CONTRACT, from_ns=1, **ANN)
    with pytest.raises(ConfigError, match="there is no party to this contract `Microsoft`: there are: OpenAI"):
        rights.grant(store, terms(), "main", "resell", LETTER, party="Microsoft", **ANN)
    with pytest.raises(ConfigError, match="`Show It` is no duty"):
        rights.grant(store, terms(), "main", "resell", LETTER, duties=("Show It",), **ANN)
    assert not evidence_dir(store.data_dir).exists()  # what was refused left nothing
    with pytest.raises(ConfigError, match="ends before it begins"):
        rights.grant(store, terms(), "main", "resell", LETTER, until_ns=1, **ANN)


def test_a_grant_covers_what_is_captured_from_its_begin_on_unless_it_says_otherwise(world: World) -> None:
    store, terms = world
    rights.bind(store, terms(), "main", CONTRACT, from_ns=1, **ANN)
    made = rights.grant(store, terms(), "main", "resell", LETTER, **ANN)
    now_ns = time.time_ns()
    old = terms().origin_now("main", made.from_ns - SECOND_NS)
    assert not permit(terms(), old, "resell", now_ns).allowed
    rights.grant(store, terms(), "main", "resell", LETTER, captured_from_ns=0, **ANN)
    assert permit(terms(), old, "resell", time.time_ns()).allowed


def test_a_review_takes_what_is_named_and_nothing_wide_by_accident(world: World) -> None:
    store, terms = world
    whole = f"{CONTRACT}/3.3e"
    with pytest.raises(ConfigError, match="name each with --purpose"):
        rights.review(store, terms(), whole, "allow", **ANN)
    with pytest.raises(ConfigError, match="says nothing of `store`"):
        rights.review(store, terms(), whole, "allow", purposes=("store",), **ANN)
    made = rights.review(store, terms(), whole, "allow", purposes=("rerank",), **ANN)
    assert made.decisions == {"rerank": Decision.ALLOW}
    confirmed = rights.review(store, terms(), whole, CONFIRM, **ANN)
    assert confirmed.decisions["general_model"] is Decision.DENY
    denied = rights.review(store, terms(), whole, "deny", **ANN)
    assert set(denied.decisions.values()) == {Decision.DENY}


def test_a_review_counts_no_more_when_the_text_has_changed(tmp_path: Path) -> None:
    own = tmp_path / "terms.toml"
    text = """
[[contract]]
id = "ours"
party = "Host"
family = "ours"
document = "Agreement"
version = "1"
from = 2026-01-01
source = "our files"
source_date = 2026-01-01

[[clause]]
id = "ours/1"
contract = "ours"
allow = ["store"]
quote = "you may keep it"
source = "our files"
source_date = 2026-01-01
"""
    own.write_text(text)
    more = f'[rights]\nterms_files = ["{own}"]\n[[contract]]\nchannel = "main"\ncontract = "ours"\nfrom = 2026-01-01\n'
    store, settings = Store(tmp_path / "data"), config(tmp_path, more)
    assert decided(terms_in_force(store, settings), "store") is Decision.ASK
    rights.review(store, terms_in_force(store, settings), "ours/1", CONFIRM, **ANN)
    assert decided(terms_in_force(store, settings), "store") is Decision.ALLOW
    own.write_text(text.replace("you may keep it", "you may keep it for a day"))
    assert decided(terms_in_force(store, settings), "store") is Decision.ASK
    store.close()


def test_a_contract_that_ends_stops_its_channel_at_that_moment(world: World) -> None:
    store, terms = world
    made = rights.bind(store, terms(), "main", CONTRACT, from_ns=1, **ANN)
    now_ns = time.time_ns()
    assert purposes_until(terms(), "main", now_ns) == {"serve": FOREVER_NS}
    until_ns = now_ns + 3600 * SECOND_NS
    rights.end_binding(store, made.id, until_ns=until_ns, **ANN)
    assert purposes_until(terms(), "main", now_ns) == {"serve": until_ns}
    assert decided(terms(), "serve", until_ns) is Decision.DENY
    rights.bind(store, terms(), "main", "deepseek-platform-2026-04-29", from_ns=until_ns, **ANN)
    assert purposes_until(terms(), "main", now_ns) == {"serve": FOREVER_NS}
    with pytest.raises(ConfigError, match="end before it begins"):
        rights.end_binding(store, made.id, until_ns=1, **ANN)
    with pytest.raises(ConfigError, match="ends earlier already"):
        rights.end_binding(store, made.id, until_ns=until_ns + 1, **ANN)


def test_contracts_of_the_configuration_bind_as_those_of_the_state(tmp_path: Path) -> None:
    form = tmp_path / "order.pdf"
    form.write_bytes(b"signed")
    more = (
        f'[[contract]]\nchannel = "main"\ncontract = "{CONTRACT}"\nfrom = 2026-01-01\nuntil = 2026-07-01\n'
        'order_form = "order.pdf"\n'
    )
    store = Store(tmp_path / "data")
    terms = terms_in_force(store, config(tmp_path, more))
    (binding,) = terms.bindings
    with pytest.raises(ConfigError, match="is in the configuration file: write `until` there"):
        rights.end_binding(store, binding.id, until_ns=binding.until_ns, **ANN)
    assert binding.order_form_sha256 == hashlib.sha256(b"signed").hexdigest()
    assert terms.contract_of("main", binding.from_ns) == CONTRACT
    assert terms.contract_of("main", binding.until_ns) == ""
    assert decided(terms, "serve", binding.until_ns) is Decision.DENY
    store.close()


def test_what_is_not_there_is_named(world: World, tmp_path: Path) -> None:
    store, _ = world
    for act in (rights.revoke, rights.lift):
        with pytest.raises(StoreError, match="`upeti rights list` shows them"):
            act(store, "nothing", **ANN)
    denial = rights.deny(store, ["main"], "main", "store", **ANN)
    with pytest.raises(StoreError, match="the state has no grant"):
        rights.revoke(store, denial.id, **ANN)
    rights.lift(store, denial.id, **ANN)
    with pytest.raises(StoreError, match="is lifted already, by head of risk"):
        rights.lift(store, denial.id, **ANN)
    with pytest.raises(ConfigError, match="cannot be read"):
        document_of(tmp_path / "nothing")
    (tmp_path / "empty").touch()
    with pytest.raises(ConfigError, match="is empty"):
        document_of(tmp_path / "empty")
