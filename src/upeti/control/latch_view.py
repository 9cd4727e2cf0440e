"""Channels, latches and incidents as people and programs see them: times as text, what is not known as null."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from upeti.control.latches import Incident, LatchRow
from upeti.gateway.latch import Scope, State
from upeti.money.window import iso_time


class ChannelShown(msgspec.Struct, frozen=True):
    """One line of the list: a channel, or a model of it that is latched apart."""

    channel: str
    kind: str
    model: str | None  # only this model; null: the whole channel
    state: str
    since: str | None
    why: str | None
    by: str | None
    incident: str | None
    next_probe: str | None  # null: none is due by itself
    breaker_open: bool | None  # in a worker; null: no worker says


def channels_shown(
    kinds: Mapping[str, str], rows: Iterable[LatchRow], breakers: Mapping[str, float] | None
) -> list[ChannelShown]:
    """Return the list of channels. ``kinds`` is by name; ``breakers`` is None when no keeper could be asked."""
    by_channel: dict[str, list[LatchRow]] = {name: [] for name in kinds}
    for row in rows:
        by_channel.setdefault(row.channel, []).append(row)
    shown = []
    for name, found in by_channel.items():
        is_open = None if breakers is None or name not in breakers else breakers[name] > 0
        whole = [row for row in found if row.scope != Scope.MODEL]
        if not whole:
            nothing = dict.fromkeys(("since", "why", "by", "incident", "next_probe"))
            shown.append(ChannelShown(name, kinds.get(name, ""), None, State.USABLE, breaker_open=is_open, **nothing))
        for row in (*whole, *(row for row in found if row.scope == Scope.MODEL)):
            shown.append(
                ChannelShown(
                    name,
                    kinds.get(name, ""),
                    row.detail if row.scope == Scope.MODEL else None,
                    row.state,
                    _time(row.since_ns),
                    row.why,
                    row.by or None,
                    row.incident,
                    _time(row.next_probe_ns),
                    is_open,
                )
            )
    return shown


def shown_incident(incident: Incident) -> dict[str, Any]:
    """Return an incident for people."""
    return {
        "id": incident.id,
        "channel": incident.channel,
        "scope": incident.scope,
        "of": incident.detail or None,
        "opened": _time(incident.opened_ns),
        "meaning": incident.meaning or None,
        "why": incident.why,
        "signal": incident.signal or None,
        "status": incident.status or None,
        "body_sha256": incident.sha256 or None,
        "body_excerpt": incident.excerpt or None,
        "calls": incident.calls,
        "probes": incident.probes,
        "recovered": _time(incident.recovered_ns),
        "recovered_by": incident.recovered_by or None,
    }


def _time(at_ns: int) -> str | None:
    return iso_time(at_ns, "UTC") if at_ns else None
