"""Rights in the state: what people here have said of contracts, and all terms that follow.

Rules: whatever changes a right is an act with a name and a reason, on the disk before the state changes; it is added,
never edited away. Evidence is kept as a private copy under its hash. Workers learn of a change as of any other.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Connection, insert, select, update

from upeti.control.store import Store, StoreError
from upeti.control.tables_rights import rights as table
from upeti.core.config import Config
from upeti.core.errors import ConfigError
from upeti.core.events import ActDone
from upeti.journal.acts import act, record_acts
from upeti.rights import terms_files
from upeti.rights.terms import (
    EVERY_CONTRACT,
    PURPOSES,
    SERVE,
    Binding,
    Clause,
    Decision,
    Denial,
    Grant,
    Review,
    Terms,
)
from upeti.rights.terms_files import day_ns

CONFIRM: Final = "confirm"  # a review that takes the clause as the file reads it

_OF_FILE: Final = "file:"
_DUTY: Final = re.compile(r"[a-z_]+(:.+)?")
_KINDS: Final[dict[str, type]] = {"binding": Binding, "review": Review, "grant": Grant, "denial": Denial}
_PREFIXES: Final = {"binding": "bnd", "review": "rev", "grant": "grt", "denial": "dny"}
_EVIDENCE_BYTES_MAX: Final = 64 * 2**20  # a scanned contract has a few; it is read whole

R = TypeVar("R", Binding, Review, Grant, Denial)


class Document(msgspec.Struct, frozen=True):
    """What somebody signed or wrote: evidence of a right."""

    name: str
    data: bytes


def terms_in_force(store: Store, config: Config) -> Terms:
    """Return all terms: files of facts, the configuration's contracts, and what the state has. Raises ``ConfigError``."""
    return with_state(store, terms_of_files(config))


def terms_of_files(config: Config) -> Terms:
    """Return what files say: facts, and the configuration's contracts and channels. Raises ``ConfigError``."""
    facts = terms_files.load(config.rights.terms_files)
    return Terms(
        contracts=facts.contracts,
        clauses=facts.clauses,
        bindings=tuple(bindings_of(config)),
        reviews=facts.reviews,
        channels=frozenset(channel.name for channel in config.channel),
    )


def with_state(store: Store, terms: Terms) -> Terms:
    """Return ``terms`` of files with what people here have said."""
    said = _all_records(store)
    return msgspec.structs.replace(
        terms,
        bindings=(*terms.bindings, *said["binding"]),
        reviews=(*terms.reviews, *said["review"]),
        grants=tuple(said["grant"]),
        denials=tuple(said["denial"]),
    )


def bindings_of(config: Config) -> list[Binding]:
    """Return the bindings that the configuration file says. Raises ``ConfigError`` when an order form cannot be read."""
    return [
        Binding(
            id=f"{_OF_FILE}{place}",
            channel=one.channel,
            contract=one.contract,
            from_ns=day_ns(one.effective),
            until_ns=day_ns(one.until) if one.until else 0,
            order_form_sha256=hashlib.sha256(document_of(Path(one.order_form)).data).hexdigest()
            if one.order_form
            else "",
        )
        for place, one in enumerate(config.contract)
    ]


def bind(
    store: Store,
    terms: Terms,
    channel: str,
    contract: str,
    *,
    from_ns: int,
    until_ns: int = 0,
    order_form: Document | None = None,
    by: str,
    why: str,
) -> Binding:
    """Say under which contract version a channel's account is. Raises ``ConfigError``."""
    _check_signed(by, why)
    _known(channel, terms.channels, "channel", "add a [[channel]] with that name")
    _known(contract, [one.id for one in terms.contracts], "contract", "`upeti rights contracts` lists them")
    if until_ns and until_ns <= from_ns:
        raise ConfigError("the contract ends before it begins: --until is the first day on which it holds no more")
    digest = keep_evidence(store.data_dir, order_form) if order_form is not None else ""
    binding = Binding(_new_id("binding"), channel, contract, from_ns, until_ns, digest, by, why)
    _add(store, binding, time.time_ns(), "rights.bound", by, why)
    return binding


def end_binding(store: Store, binding_id: str, *, until_ns: int, by: str, why: str) -> Binding:
    """Let a contract end. Raises ``ConfigError``, ``StoreError``."""

    if binding_id.startswith(_OF_FILE):
        raise ConfigError(f"`{binding_id}` is in the configuration file: write `until` there")

    def ended(binding: Binding) -> Binding:
        if until_ns <= binding.from_ns:
            raise ConfigError("the contract would end before it begins: choose a later day")
        if binding.until_ns and until_ns > binding.until_ns:
            raise ConfigError("the contract ends earlier already: `upeti rights bind` says that it goes on")
        return msgspec.structs.replace(binding, until_ns=until_ns)

    return _change(store, Binding, binding_id, ended, "rights.contract_ended", by, why)


def review(
    store: Store, terms: Terms, clause_id: str, decision: str, *, purposes: tuple[str, ...] = (), by: str, why: str
) -> Review:
    """Record what a named person reads in a clause: its decision for ``purposes``, or for all that the clause decides.

    ``decision`` is one of ``Decision``, or ``CONFIRM``: as the file reads it. Raises ``ConfigError``.
    """
    clause = terms.clause(clause_id)
    if clause is None:
        raise ConfigError(f"there is no clause `{clause_id}`: `upeti rights clauses` lists them")
    decisions = _reviewed(clause, decision, purposes)
    now_ns = time.time_ns()
    made = Review(_new_id("review"), clause.id, clause.digest, decisions, by, why, now_ns)
    _add(store, made, now_ns, "rights.reviewed", by, why)
    return made


def _reviewed(clause: Clause, decision: str, purposes: tuple[str, ...]) -> dict[str, Decision]:
    spoken = ", ".join(sorted(clause.decisions))
    for purpose in purposes:
        if purpose not in clause.decisions:
            raise ConfigError(f"the clause `{clause.id}` says nothing of `{purpose}`; it speaks of: {spoken}")
    if decision == CONFIRM:
        return {purpose: clause.decisions[purpose] for purpose in purposes or clause.decisions}
    if decision not in list(Decision):
        raise ConfigError(f"`{decision}` is no decision; there are: allow, ask, deny, {CONFIRM}")
    if decision == Decision.ALLOW:
        if clause.contract == EVERY_CONTRACT:
            raise ConfigError("a rule for every contract allows nothing: change or remove it in your file of terms")
        if not purposes and len(clause.decisions) > 1:
            raise ConfigError(f"say what is allowed: name each with --purpose; the clause speaks of: {spoken}")
    return dict.fromkeys(purposes or tuple(clause.decisions), Decision(decision))


def grant(
    store: Store,
    terms: Terms,
    channel: str,
    purpose: str,
    evidence: Document,
    *,
    by: str,
    why: str,
    party: str = "",
    from_ns: int = 0,
    until_ns: int = 0,
    captured_from_ns: int | None = None,
    tenant: str = "",
    models: tuple[str, ...] = (),
    duties: tuple[str, ...] = (),
) -> Grant:
    """Record a written permission. Its party is that of the channel's contract in force, unless named.

    It covers what is captured from its begin on, unless ``captured_from_ns`` says otherwise. Raises ``ConfigError``.
    """
    _check_signed(by, why)
    now_ns = time.time_ns()
    from_ns = from_ns or now_ns
    for duty in duties:
        if not _DUTY.fullmatch(duty):
            raise ConfigError(f"`{duty}` is no duty: write kind or kind:value, such as notice:TEXT")
    _known(purpose, PURPOSES, "purpose", f"there are: {', '.join(sorted(PURPOSES))}")
    if purpose == SERVE:
        raise ConfigError("serving needs no grant: who configures a channel says that he may call it")
    contract = terms.contract(terms.contract_of(channel, now_ns))
    if contract is None:
        cure = f"`upeti rights bind {channel} CONTRACT --from DATE` says which"
        raise ConfigError(f"the channel `{channel}` has no contract in force, so nobody could permit anything: {cure}")
    if until_ns and until_ns <= from_ns:
        raise ConfigError("the grant ends before it begins: --until is the first day on which it holds no more")
    parties = {clause.party for clause in terms.clauses_of(contract.id, now_ns)} | {contract.party}
    _known(party or contract.party, parties, "party to this contract", f"there are: {', '.join(sorted(parties))}")
    made = Grant(
        id=_new_id("grant"),
        channel=channel,
        purpose=purpose,
        party=party or contract.party,
        evidence_sha256=keep_evidence(store.data_dir, evidence),
        evidence_name=evidence.name,
        by=by,
        why=why,
        at_ns=now_ns,
        from_ns=from_ns,
        until_ns=until_ns,
        captured_from_ns=from_ns if captured_from_ns is None else captured_from_ns,
        tenant=tenant,
        models=models,
        duties=duties,
    )
    _add(store, made, now_ns, "rights.granted", by, why)
    return made


def revoke(store: Store, grant_id: str, *, by: str, why: str) -> Grant:
    """Take a grant back from now on. Raises ``StoreError`` when there is none, or it is revoked already."""
    now_ns = time.time_ns()

    def revoked(grant: Grant) -> Grant:
        if grant.revoked_ns:
            raise StoreError(f"the grant `{grant_id}` is revoked already, by {grant.revoked_by}")
        return msgspec.structs.replace(grant, revoked_ns=now_ns, revoked_by=by, revoked_why=why)

    return _change(store, Grant, grant_id, revoked, "rights.revoked", by, why)


def deny(
    store: Store, channels: Iterable[str], channel: str, purpose: str, *, tenant: str = "", by: str, why: str
) -> Denial:
    """Deny a purpose on one of ``channels``, whoever permits it. Raises ``ConfigError``."""
    _known(purpose, PURPOSES, "purpose", f"there are: {', '.join(sorted(PURPOSES))}")
    _known(channel, set(channels), "channel", "name one that the configuration has")
    if tenant and purpose == SERVE:
        raise ConfigError("serving is denied for a whole channel: suspend a tenant, or revoke its keys, instead")
    now_ns = time.time_ns()
    made = Denial(_new_id("denial"), channel, purpose, by, why, now_ns, tenant)
    _add(store, made, now_ns, "rights.denied", by, why)
    return made


def lift(store: Store, denial_id: str, *, by: str, why: str) -> Denial:
    """Take a denial back from now on. Raises ``StoreError`` when there is none, or it is lifted already."""
    now_ns = time.time_ns()

    def lifted(denial: Denial) -> Denial:
        if denial.lifted_ns:
            raise StoreError(f"the denial `{denial_id}` is lifted already, by {denial.lifted_by}")
        return msgspec.structs.replace(denial, lifted_ns=now_ns, lifted_by=by, lifted_why=why)

    return _change(store, Denial, denial_id, lifted, "rights.lifted", by, why)


# -- evidence
# ------------------------------------------------------------------------------------------------------------


def evidence_dir(data_dir: Path) -> Path:
    return data_dir / "evidence"


def keep_evidence(data_dir: Path, document: Document) -> str:
    """Keep a private copy of a document; return its SHA-256."""
    digest = hashlib.sha256(document.data).hexdigest()
    directory = evidence_dir(data_dir)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept = directory / digest
    if not kept.exists():
        partial = directory / f"{digest}.{secrets.token_hex(4)}"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(document.data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(kept)
    return digest


def document_of(path: Path) -> Document:
    """Return the document at ``path``. Raises ``ConfigError``."""
    try:
        return checked_document(path.name, path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); name the document itself") from None


def checked_document(name: str, data: bytes) -> Document:
    """Return a document. Raises ``ConfigError`` when it is empty or too large to be one."""
    if not data or len(data) > _EVIDENCE_BYTES_MAX:
        what = "is empty" if not data else f"has more than {_EVIDENCE_BYTES_MAX // 2**20} MiB"
        raise ConfigError(f"{name} {what}; give the document itself")
    return Document(name, data)


# -- the state
# ------------------------------------------------------------------------------------------------------------


def _all_records(store: Store) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    query = select(table.c.kind, table.c.record).order_by(table.c.at_ns, table.c.id)
    with store.engine.connect() as connection:
        for row in connection.execute(query):
            found[row.kind].append(msgspec.convert(row.record, _KINDS[row.kind]))
    return found


def _add(store: Store, record: Binding | Review | Grant | Denial, at_ns: int, kind: str, by: str, why: str) -> None:
    fields = _signed(record, by, why)
    record_acts(store.data_dir, _act(at_ns, by, kind, record.id, why, fields))
    with store.changing() as connection:
        row = {"id": record.id, "kind": type(record).__name__.lower(), "at_ns": at_ns, "record": fields}
        connection.execute(insert(table).values(row))


def _change(
    store: Store, kind: type[R], record_id: str, changed: Callable[[R], R], act_kind: str, by: str, why: str
) -> R:
    """Put ``changed`` of a record in its place, in one transaction with its act before it."""
    with store.changing() as connection:
        record = _record(connection, kind, record_id)
        new = changed(record)
        fields = _signed(new, by, why)
        record_acts(store.data_dir, _act(time.time_ns(), by, act_kind, record_id, why, fields))
        connection.execute(update(table).where(table.c.id == record_id).values(record=fields))
    return new


def _record(connection: Connection, kind: type[R], record_id: str) -> R:
    name = kind.__name__.lower()
    query = select(table.c.record).where((table.c.id == record_id) & (table.c.kind == name))
    found = connection.execute(query).scalar()
    if found is None:
        raise StoreError(f"the state has no {name} `{record_id}`: `upeti rights list` shows them")
    return msgspec.convert(found, kind)


def _check_signed(by: str, why: str) -> None:
    if not by.strip() or not why.strip():
        raise ConfigError("a right has a name and a reason: give --by and --why")


def _signed(record: object, by: str, why: str) -> dict[str, Any]:
    _check_signed(by, why)
    fields: dict[str, Any] = msgspec.to_builtins(record)
    return fields


def _act(at_ns: int, by: str, kind: str, subject: str, why: str, fields: Mapping[str, Any]) -> ActDone:
    return act(at_ns, by, kind, subject, why, record=dict(fields))


def _known(name: str, names: Iterable[str], what: str, cure: str) -> None:
    known = list(names)
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise ConfigError(f"there is no {what} `{name}`: {f'did you mean `{near[0]}`? ' if near else ''}{cure}")


def _new_id(kind: str) -> str:
    return f"{_PREFIXES[kind]}_{secrets.token_hex(8)}"
