"""Kept pairs of questions and answers: found, shown, erased.

Rules: the table is a fold over the journals of captures; bodies are apart. Erasing takes bodies and the link to the person
away, leaves the record that there was a pair, and is an act before it happens; doing it again after it was broken off
erases the rest. A body that two pairs of a tenant share goes with the last of them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update

from upeti.control.store import Store, StoreError, insert_new
from upeti.control.tables_capture import left_out, pairs, tenant_salts
from upeti.core.errors import ConfigError, JournalError
from upeti.core.events import PairCaptured
from upeti.journal.acts import act, read_acts, record_acts
from upeti.journal.blocks import captured_dir
from upeti.journal.bodies import SALT_BYTES, Bodies
from upeti.journal.reader import Follower, instances

_AT_ONCE: Final = 500  # rows of one statement
_ORPHAN_S: Final = 3600.0  # a body without a pair is that of a killed process, or of a pair that is being written

RETENTION: Final = "rule:retention"
ERASED: Final = "capture.erased"
EXPIRED: Final = "capture.expired"


class Pair(msgspec.Struct, frozen=True):
    """One kept pair, without its bodies."""

    pair_id: str
    at_ns: int
    call_id: str
    tenant: str
    project: str
    key: str
    feature: str
    task: str
    user_digest: str
    route: str
    channel: str
    model: str
    wire: str
    contract: str
    clause: str
    grant: str
    consent: str
    redactions: dict[str, int]
    request_digest: str
    answer_digest: str
    request_bytes: int
    answer_bytes: int
    erased_ns: int = 0


class Erased(msgspec.Struct):
    """What was erased."""

    pairs: list[str] = msgspec.field(default_factory=list)
    bodies: int = 0


# -- finding
# -------------------------------------------------------------------------------------------------------------


def find(
    store: Store,
    *,
    tenant: str = "",
    task: str = "",
    feature: str = "",
    channel: str = "",
    consent: str = "",
    grant: str = "",
    clause: str = "",
    contract: str = "",
    call_id: str = "",
    pair_id: str = "",
    from_ns: int = 0,
    until_ns: int = 0,
    erased: bool | None = False,
) -> Iterator[Pair]:
    """Yield the pairs that fit everything that is given, oldest first. ``erased`` None: erased ones too."""
    columns = pairs.c
    wanted = {
        columns.tenant: tenant,
        columns.task: task,
        columns.feature: feature,
        columns.channel: channel,
        columns.consent: consent,
        columns.grant: grant,
        columns.clause: clause,
        columns.contract: contract,
        columns.call_id: call_id,
        columns.pair_id: pair_id,
    }
    conditions: list[ColumnElement[bool]] = [column == value for column, value in wanted.items() if value]
    if from_ns:
        conditions.append(columns.at_ns >= from_ns)
    if until_ns:
        conditions.append(columns.at_ns < until_ns)
    if erased is not None:
        conditions.append(columns.erased_ns > 0 if erased else columns.erased_ns == 0)
    yield from _pairs(store, conditions)


def _pairs(store: Store, conditions: list[ColumnElement[bool]]) -> Iterator[Pair]:
    """Yield page by page: no cursor stays open while somebody works on what was found."""
    after: tuple[int, str] | None = None
    while True:
        query = select(pairs).where(*conditions).order_by(pairs.c.at_ns, pairs.c.pair_id).limit(_AT_ONCE)
        if after is not None:
            at_ns, pair_id = after
            later = and_(pairs.c.at_ns == at_ns, pairs.c.pair_id > pair_id)
            query = query.where(or_(pairs.c.at_ns > at_ns, later))
        with store.engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        for row in rows:
            yield msgspec.convert({name: row[name] for name in Pair.__struct_fields__}, Pair)
        if len(rows) < _AT_ONCE:
            return
        after = rows[-1]["at_ns"], rows[-1]["pair_id"]


def newest(store: Store, count: int, *, task: str, wire: str) -> list[Pair]:
    """Return the newest ``count`` pairs of a task ("": of none) on a wire whose bodies are there, the newest first."""
    where = [pairs.c.task == task, pairs.c.wire == wire, pairs.c.erased_ns == 0]
    query = select(pairs).where(*where).order_by(pairs.c.at_ns.desc(), pairs.c.pair_id.desc()).limit(count)
    with store.engine.connect() as connection:
        rows = connection.execute(query).mappings().all()
    return [msgspec.convert({name: row[name] for name in Pair.__struct_fields__}, Pair) for row in rows]


def by_task(store: Store, wire: str) -> dict[str, int]:
    """Return task → how many pairs of it on a wire have their bodies; "": those of no task."""
    there = (pairs.c.wire == wire) & (pairs.c.erased_ns == 0)
    query = select(pairs.c.task, func.count()).where(there).group_by(pairs.c.task).order_by(pairs.c.task)
    with store.engine.connect() as connection:
        return {str(task): int(count) for task, count in connection.execute(query)}


def captured_under(store: Store, contract: str) -> dict[str, int]:
    """Return how many pairs are kept that were captured under a contract, by channel."""
    there = (pairs.c.contract == contract) & (pairs.c.erased_ns == 0)
    query = select(pairs.c.channel, func.count()).where(there).group_by(pairs.c.channel).order_by(pairs.c.channel)
    with store.engine.connect() as connection:
        return {str(channel): int(count) for channel, count in connection.execute(query)}


class Count(msgspec.Struct, frozen=True):
    """How much of a tenant's is kept."""

    tenant: str
    pairs: int
    erased: int
    bytes: int  # of what is there, before compression
    oldest_ns: int


def counts(store: Store) -> list[Count]:
    """Return what is kept, by tenant."""
    there = pairs.c.erased_ns == 0
    size = pairs.c.request_bytes + pairs.c.answer_bytes
    query = (
        select(
            pairs.c.tenant,
            func.count().filter(there),
            func.count().filter(~there),
            func.coalesce(func.sum(size).filter(there), 0),
            func.coalesce(func.min(pairs.c.at_ns).filter(there), 0),
        )
        .group_by(pairs.c.tenant)
        .order_by(pairs.c.tenant)
    )
    with store.engine.connect() as connection:
        rows = connection.execute(query).all()
    return [Count(tenant, int(kept), int(gone), int(size), int(oldest)) for tenant, kept, gone, size, oldest in rows]


def left_out_counts(store: Store) -> list[dict[str, Any]]:
    """Return how many exchanges were not kept, by day, tenant, channel and reason."""
    columns = left_out.c
    query = select(left_out).order_by(columns.day, columns.tenant, columns.channel, columns.reason)
    with store.engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


# -- keeping
# -------------------------------------------------------------------------------------------------------------


def salt_of(store: Store, tenant: str) -> bytes:
    """Return the tenant's salt, made when it has none."""
    query = select(tenant_salts.c.salt).where(tenant_salts.c.tenant == tenant)
    with store.engine.connect() as connection:
        found = connection.execute(query).scalar()
    if found is None:
        with store.writing() as connection:
            insert_new(connection, tenant_salts, [{"tenant": tenant, "salt": secrets.token_bytes(SALT_BYTES)}])
            found = connection.execute(query).scalar_one()
    return bytes(found)


def user_digest(salt: bytes, user: str) -> str:
    """Return what stands for an end user of a tenant; "" for none."""
    return hmac.new(salt, user.encode(), hashlib.sha256).hexdigest() if user else ""


def keep(store: Store, records: Iterable[PairCaptured]) -> None:
    """Fold records of captures into the table; one that is there already stays as it is."""
    rows = [msgspec.structs.asdict(record) | {"erased_ns": 0} for record in records]
    with store.writing() as connection:
        for start in range(0, len(rows), _AT_ONCE):
            insert_new(connection, pairs, rows[start : start + _AT_ONCE])


def records(data_dir: Path) -> Iterator[PairCaptured]:
    """Yield what all journals of captures say. Raises ``JournalError``."""
    for directory in instances(captured_dir(data_dir)):
        for block in Follower(directory).read():
            yield from (record for record in block if isinstance(record, PairCaptured))


def rebuild(store: Store, data_dir: Path, bodies: Bodies) -> int:
    """Add the pairs that are in the journals and not in the table; return how many. What was erased does not come back:
    acts say what was, and a pair whose bodies are not there is.
    """
    with store.engine.connect() as connection:
        known = set(connection.execute(select(pairs.c.pair_id)).scalars())
    fresh = [record for record in records(data_dir) if record.pair_id not in known]
    keep(store, fresh)
    if fresh:
        erased = _erased_by_acts(data_dir)
        there = {digest for digest, _ in bodies.kept()}
        gone = [one.pair_id for one in fresh if not {one.request_digest, one.answer_digest} <= there]
        _mark_erased(store, [*gone, *(one.pair_id for one in fresh if one.pair_id in erased)], time.time_ns())
    return len(fresh)


def _erased_by_acts(data_dir: Path) -> set[str]:
    erased: set[str] = set()
    for one in read_acts(data_dir):
        if one.kind in (ERASED, EXPIRED):
            erased.update(msgspec.json.decode(one.detail)["pairs"])
    return erased


def note_left_out(store: Store, noted: dict[tuple[str, str, str, str], int]) -> None:
    """Add to the counts of what was not kept: (day, tenant, channel, reason) → exchanges."""
    with store.writing() as connection:
        for (day, tenant, channel, reason), exchanges in noted.items():
            named = {"day": day, "tenant": tenant, "channel": channel, "reason": reason}
            insert_new(connection, left_out, [{**named, "exchanges": 0}])
            where = and_(*(left_out.c[name] == value for name, value in named.items()))
            connection.execute(update(left_out).where(where).values(exchanges=left_out.c.exchanges + exchanges))


# -- erasing
# -------------------------------------------------------------------------------------------------------------


def erase(
    store: Store,
    bodies: Bodies,
    *,
    tenant: str = "",
    user: str = "",
    pair_id: str = "",
    by: str,
    why: str,
) -> Erased:
    """Erase a person's pairs (``tenant`` and ``user``), a tenant's, or one pair. Raises ``ConfigError``, ``StoreError``."""
    if not by.strip() or not why.strip():
        raise ConfigError("erasing has a name and a reason: give --by and --why")
    if not tenant and not pair_id:
        raise ConfigError("say what to erase: --tenant, --tenant with --user, or --pair")
    conditions: list[ColumnElement[bool]] = [pairs.c.erased_ns == 0]
    if tenant:
        conditions.append(pairs.c.tenant == tenant)
    if user:
        conditions.append(pairs.c.user_digest == user_digest(salt_of(store, tenant), user))
    if pair_id:
        conditions.append(pairs.c.pair_id == pair_id)
    found = list(_pairs(store, conditions))
    if pair_id and not found:
        raise StoreError(f"there is no pair `{pair_id}` that is not erased: `upeti capture list` shows them")
    # The person is not named in the record that says that they were forgotten.
    scope = "pair" if pair_id else "user" if user else "tenant"
    _record(store, found, by, ERASED, pair_id or tenant, why, scope=scope)
    erased = _erase(store, bodies, found)
    if tenant and not user and not pair_id:
        with store.writing() as connection:  # no digest of the tenant's can be tried out any more
            connection.execute(delete(tenant_salts).where(tenant_salts.c.tenant == tenant))
    return erased


def expire(store: Store, bodies: Bodies, *, before_ns: int) -> Erased:
    """Erase the pairs that are older than they may be kept."""
    conditions = [pairs.c.erased_ns == 0, pairs.c.at_ns < before_ns]
    found = list(_pairs(store, conditions))
    if found:
        why = f"kept for as long as [capture] retention_days says: {len(found)} pairs"
        _record(store, found, RETENTION, EXPIRED, "", why)
    return _erase(store, bodies, found)


def sweep(store: Store, bodies: Bodies, *, now_s: float) -> int:
    """Erase bodies that no pair has: their process was killed before it wrote of them, or an erasure was broken off
    before it came to them. Return how many.
    """
    bodies.tidy(now_s - _ORPHAN_S)
    old = [digest for digest, at_s in bodies.kept() if at_s < now_s - _ORPHAN_S]
    gone = 0
    for start in range(0, len(old), _AT_ONCE):
        gone += sum(bodies.erase(digest) for digest in _unneeded(store, old[start : start + _AT_ONCE]))
    return gone


def _record(store: Store, found: list[Pair], by: str, kind: str, subject: str, why: str, **detail: Any) -> None:
    now_ns = time.time_ns()
    ids = [pair.pair_id for pair in found]
    parts = [ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE)]
    record_acts(store.data_dir, *(act(now_ns, by, kind, subject, why, pairs=part, **detail) for part in parts or [[]]))


def _erase(store: Store, bodies: Bodies, found: list[Pair]) -> Erased:
    erased = Erased()
    for start in range(0, len(found), _AT_ONCE):
        some = found[start : start + _AT_ONCE]
        _mark_erased(store, [pair.pair_id for pair in some], time.time_ns())
        digests = sorted({digest for pair in some for digest in (pair.request_digest, pair.answer_digest)})
        for digest in _unneeded(store, digests):
            erased.bodies += bodies.erase(digest)
        erased.pairs += [pair.pair_id for pair in some]
    return erased


def _mark_erased(store: Store, pair_ids: list[str], at_ns: int) -> None:
    for start in range(0, len(pair_ids), _AT_ONCE):
        some = pair_ids[start : start + _AT_ONCE]
        # Workers have nothing to learn, but datasets and models may: whoever watches the state looks again.
        with store.changing() as connection:
            where = pairs.c.pair_id.in_(some)
            connection.execute(update(pairs).where(where).values(erased_ns=at_ns, user_digest=""))


def _unneeded(store: Store, digests: list[str]) -> list[str]:
    """Return which of these bodies no pair has that is not erased."""
    with store.engine.connect() as connection:
        needed: set[str] = set()
        for column in (pairs.c.request_digest, pairs.c.answer_digest):
            query = select(column).where(pairs.c.erased_ns == 0, column.in_(digests)).distinct()
            needed |= set(connection.execute(query).scalars())
    return [digest for digest in digests if digest not in needed]


def body(store: Store, bodies: Bodies, pair: Pair) -> tuple[bytes, bytes] | None:
    """Return question and answer of a pair, redacted JSON; None when they were erased. Raises ``JournalError``."""
    salt = salt_of(store, pair.tenant)
    try:
        asked, answered = (bodies.read(salt, one) for one in (pair.request_digest, pair.answer_digest))
    except OSError as error:
        raise JournalError(f"the bodies of {pair.pair_id} cannot be read: {error}") from error
    return None if asked is None or answered is None else (asked, answered)
