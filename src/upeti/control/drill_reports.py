"""Reports of drills: read from the journal, signed, kept in the state.

Loads DuckDB, so it runs in commands and in a job's process, never in the keeper.
"""

from __future__ import annotations

import datetime
import hashlib
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from upeti import __version__
from upeti.control import drills
from upeti.control.compile import compile_snapshot
from upeti.control.config_file import Document
from upeti.control.drill_journal import (
    attempts_of,
    failover_gaps_us,
    pending_calls,
    refusals_of,
    seen_attempts,
    spent_before,
)
from upeti.control.drill_watch import live_drill
from upeti.control.drill_world import without_alternative, world_of
from upeti.control.drills import DrillRow
from upeti.control.ledger import Ledger
from upeti.control.places import Places
from upeti.control.rights import terms_of_files, with_state
from upeti.control.signing import public_keys, sign, verify
from upeti.control.snapshots import state_in
from upeti.control.store import Store
from upeti.core.errors import ConfigError
from upeti.gateway.faults import MILLION
from upeti.gateway.snapshot import ChannelView, Snapshot
from upeti.journal.events_store import connect
from upeti.money.parties import Parties, Place
from upeti.money.price import Price, tiers_at
from upeti.money.price_book import PriceBook
from upeti.outlook.drill import Shadow
from upeti.outlook.drill_report import PAYLOAD_TYPE, Rights, Subject, live_report, shadow_report, summary
from upeti.outlook.live_drill import AttemptSeen, compared
from upeti.outlook.remaining import Remaining, World
from upeti.rights.envelope import SignatureError
from upeti.rights.terms import Terms

_TOLD_NS: Final = 60 * 10**9  # a snapshot may be late
# Workers know that a drill has ended within a second; and one that kept a call from the channel in the last moment opens its
# attempt a moment later.
_LAST_NS: Final = 10**9
_GAPS_NS: Final = 30 * 86_400 * 10**9  # how far back failovers are looked for: they are rare


class Now(msgspec.Struct, frozen=True):
    """What is configured, permitted and priced now."""

    document: Document
    snapshot: Snapshot
    world: World
    terms: Terms
    node: str


def now_of(store: Store, document: Document, now_ns: int) -> Now:
    """Compile the present state. Raises ``ConfigError``."""
    terms = with_state(store, terms_of_files(document.config))
    state = state_in(store, Ledger(store), terms, now_ns)
    book = PriceBook.load(document.config.money.price_files)
    compiled = compile_snapshot(_without_secrets(document), state, book)
    world = world_of(compiled.snapshot, compiled.terms.values(), now_ns)
    places = Places(store.data_dir)
    places.make()
    return Now(document, compiled.snapshot, world, terms, places.node(document.config.node.name).name)


def _without_secrets(document: Document) -> Document:
    """Nobody calls here, so no client's secret has to be found; keys keep their limits."""
    keys = tuple(
        msgspec.structs.replace(key, secret=None, sha256=key.sha256 or hashlib.sha256(key.id.encode()).hexdigest())
        for key in document.config.key
    )
    return msgspec.structs.replace(document, config=msgspec.structs.replace(document.config, key=keys))


def shadow(
    store: Store, document: Document, channel: str, *, by: str, why: str, from_ns: int, until_ns: int
) -> DrillRow:
    """Replay a window of the journal without a channel; keep the signed report. Raises ``ConfigError``, ``JournalError``."""
    made_ns = time.time_ns()
    now = now_of(store, document, made_ns)
    if channel not in now.snapshot.channels:
        raise ConfigError(f"there is no channel `{channel}`; `upeti channels list` shows them")
    row = drills.shadow_row(channel, now.node, by, why, from_ns, until_ns, made_ns)
    with connect(store.data_dir) as connection:
        replay = Shadow(Remaining(now.world, channel), spent_before(connection, now.world.budgets, from_ns))
        for seen in seen_attempts(connection, channel, from_ns, until_ns):
            replay.add(seen)
        gaps = failover_gaps_us(connection, until_ns - _GAPS_NS, until_ns)
    return _keep(store, row, shadow_report(subject_of(row, now, made_ns), replay, gaps, Rights(now.terms)))


def live(store: Store, document: Document, row: DrillRow) -> DrillRow:
    """Make the report of a live drill that has ended. Raises ``ConfigError``, ``JournalError``."""
    made_ns = time.time_ns()
    now = now_of(store, document, made_ns)
    with connect(store.data_dir, skip_damaged=True) as connection:
        drill = live_drill(row, now.world)
        for seen in attempts_of(connection, row.from_ns, row.over_ns + _TOLD_NS):
            drill.add(seen)
        for refused in refusals_of(connection, row.from_ns):
            drill.refused(refused)
        pending = pending_calls(connection)
    calls = [one for one in drill.judged(pending) if one.met or one.at_ns < row.over_ns + _LAST_NS]
    costs = compared(calls, lambda seen: price_here(now.snapshot, row.channel, seen))
    lacks = without_alternative(now.world, row.channel) if row.channel in now.world.channels else {}
    subject = subject_of(row, now, made_ns)
    return _keep(store, row, live_report(subject, calls, drill.outside, costs, lacks, Rights(now.terms)))


def price_here(snapshot: Snapshot, channel: str, seen: AttemptSeen) -> Price | None:
    """Return what the channel that was cut asks on the route of a call that another one answered."""
    route, view = snapshot.routes.get(seen.route), snapshot.channels.get(channel)
    if route is None or view is None:
        return None
    for candidate in sorted(route.candidates, key=lambda one: one.order):
        if candidate.channel == channel:
            model = candidate.model or (seen.route if seen.route != "*" else seen.model)
            at = tiers_at(candidate.prices.get(model) or candidate.prices.get("*") or (), seen.opened_ns)
            return at.get(view.tier) or at.get("")
    return None


def subject_of(row: DrillRow, now: Now, made_ns: int) -> Subject:
    view = now.snapshot.channels.get(row.channel)
    provider, parent = _provider(row.channel, view)
    routes = {route.name: route for route in now.document.config.route}
    return Subject(
        drill=row.id,
        mode=row.mode,
        channel=row.channel,
        host=view.host if view is not None else "",
        provider=provider,
        parent=parent,
        by=row.by,
        why=row.why,
        from_ns=row.from_ns,
        until_ns=row.over_ns,
        made_ns=made_ns,
        node=row.node,
        version=__version__,
        share_percent=share_text(row.share_millionths),
        kind=row.kind,
        signal=row.signal,
        ended_by=row.ended_by,
        ended_why=row.ended_why,
        abort_below_percent=row.abort_below,
        aborted=row.ended_by == drills.RULE_SURVIVAL,
        critical={name: route.critical for name, route in routes.items()},
        functions={name: route.function for name, route in routes.items()},
        next_days=now.document.config.drill.overdue_days,
    )


def _provider(channel: str, view: ChannelView | None) -> tuple[str, str]:
    if view is None:
        return "", ""
    place = Place(channel, view.kind, view.host)
    standing = Parties.load([]).standing(place, datetime.datetime.now(datetime.UTC).date())
    return (standing.party, standing.parent) if standing.source else ("", "")


def share_text(millionths: int) -> str:
    """Return a share in percent, exact."""
    return f"{millionths / (MILLION / 100):f}".rstrip("0").rstrip(".")


def _keep(store: Store, row: DrillRow, report: dict[str, Any]) -> DrillRow:
    payload = msgspec.json.format(msgspec.json.encode(report), indent=1)
    envelope = sign(store.data_dir, PAYLOAD_TYPE, payload)
    return drills.keep_report(store, row, summary(report), envelope, hashlib.sha256(payload).hexdigest())


class Checked(msgspec.Struct, frozen=True):
    """A report whose signature was looked at."""

    report: dict[str, Any]
    sha256: str  # of the signed bytes
    key_id: str


def checked(data_dir: Path, envelope: bytes) -> Checked:
    """Return the report in an envelope. Raises ``SignatureError`` when it is not as it was signed here, or no drill's."""
    signed = verify(envelope, public_keys(data_dir))
    if signed.payload_type != PAYLOAD_TYPE:
        raise SignatureError(f"this is no report of a drill: its type is {signed.payload_type}")
    report: dict[str, Any] = msgspec.json.decode(signed.payload)
    return Checked(report, hashlib.sha256(signed.payload).hexdigest(), signed.key_id)
