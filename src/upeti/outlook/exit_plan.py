"""The way out of each route: who else could take its calls, when that was tried, months and cost to leave.

Rules: what people have said stands as they said it, with their name; what is computed shows its computation; what neither
gives is unknown. A derived cost is what the same calls cost more elsewhere, at the exact figures of the last replay, for the
months that leaving takes. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any, Final

import msgspec

from upeti.core.amount import decimal_text, parse_pico
from upeti.outlook.remaining import Asked, Lack, Remaining, World

HOURS_A_MONTH: Final = 730  # 8,760 hours of a year in twelve parts
_DAY_NS: Final = 86_400 * 10**9


class Said(msgspec.Struct, frozen=True):
    """An alternative outside the configuration, as a person entered it. Texts are "" where nothing was said."""

    id: str
    route: str
    alternative: str
    months: str
    cost: str
    currency: str
    owner: str
    by: str
    why: str
    at_ns: int
    removed_ns: int = 0


class Trial(msgspec.Struct, frozen=True):
    """A reported drill of a channel, as far as it looked at one route."""

    drill: str
    mode: str
    channel: str
    at_ns: int
    calls: int
    survived: int
    window_hours: float
    before: Mapping[str, str]  # of the compared calls, by currency
    after: Mapping[str, str]
    compared: int


class Spend(msgspec.Struct, frozen=True):
    """What one channel cost on one route in a span of time."""

    route: str
    channel: str
    currency: str
    pico: int


class Setting(msgspec.Struct, frozen=True):
    """What the configuration says of a route."""

    function: str = ""
    critical: bool | None = None


def entry(
    world: World,
    route: str,
    setting: Setting,
    said: list[Said],
    trials: list[Trial],
    spend: list[Spend],
    overdue_ns: int,
) -> dict[str, Any]:
    """Return the register's entry of one route. ``overdue_ns`` is the moment before which a drill is too old."""
    channels = list(dict.fromkeys(one.channel for one in sorted(world.routes[route], key=lambda one: one.order)))
    first = channels[0] if channels else ""
    latest = max(trials, key=lambda one: one.at_ns, default=None)
    overdue = latest is None or latest.at_ns < overdue_ns
    return {
        "route": route,
        "function": setting.function or None,
        "critical_or_important": setting.critical,
        "depends_on": first or None,
        "dependence": _dependence(spend),
        "alternatives": [*_configured(world, route, first), *map(_said, said)],
        "last_drill": _trial(latest) if latest is not None else None,
        "overdue": overdue,
        "leaving": leaving(said, [one for one in trials if one.mode == "shadow" and one.channel == first]),
        "warnings": list(_warnings(world, route, first, said, latest, overdue)),
    }


def _configured(world: World, route: str, first: str) -> Iterable[dict[str, Any]]:
    """Yield the route's other candidates, and whether they could take its calls if ``first`` were gone."""
    for candidate in sorted(world.routes[route], key=lambda one: one.order):
        if candidate.channel == first:
            continue
        alone = msgspec.structs.replace(world, routes={route: (candidate,)})
        lack = _lack(alone, route, first, candidate.channel)
        yield {
            "alternative": f"{candidate.channel}/{candidate.model or '(as asked)'}",
            "kind": "configured",
            "permitted": lack is None,
            "cure": lack.cure(route) if lack is not None else None,
        }


def _lack(world: World, route: str, first: str, other: str) -> Lack | None:
    """Return why a candidate takes no call of the route, whatever API they use; None when it takes those of one."""
    remaining = Remaining(world, first)
    channel = world.channels.get(first)
    lack: Lack | None = None
    for wire in sorted(channel.wires if channel is not None else world.channels[other].wires):
        found = remaining.options(Asked("", "", "", "", route, first, route, wire, channel.tier if channel else ""))
        if not isinstance(found, Lack):
            return None
        lack = found
    return lack


def _said(one: Said) -> dict[str, Any]:
    return {
        "alternative": one.alternative,
        "kind": "entered",
        "id": one.id,
        "months": one.months or None,
        "cost": one.cost or None,
        "currency": one.currency or None,
        "owner": one.owner or None,
        "by": one.by,
        "why": one.why or None,
    }


def _trial(one: Trial) -> dict[str, Any]:
    return {
        "drill": one.drill,
        "mode": one.mode,
        "channel": one.channel,
        "at_ns": one.at_ns,
        "calls": one.calls,
        "survived": one.survived,
    }


def leaving(said: list[Said], replays: list[Trial]) -> dict[str, Any]:
    """Return months and cost to leave: the shortest that somebody has said, else derived from the last replay."""
    timed = [one for one in said if one.months]
    months = min((Fraction(one.months) for one in timed), default=None)
    priced = [one for one in said if one.cost]
    found: dict[str, Any] = {
        "months": next((one.months for one in timed if Fraction(one.months) == months), None),
        "cost": None,
        "source": None,
        "computation": None,
    }
    if priced:
        cheapest = min(priced, key=lambda one: (one.currency, parse_pico(one.cost)))
        return found | {
            "cost": {cheapest.currency: cheapest.cost},
            "source": "entered",
            "computation": f"entered by {cheapest.by} for {cheapest.alternative}",
        }
    replay = max(replays, key=lambda one: one.at_ns, default=None)
    if months is None or replay is None or not replay.compared or not replay.window_hours:
        return found
    cost, steps = {}, []
    for currency in sorted({*replay.before, *replay.after}):
        before, after = (parse_pico(side.get(currency, "0")) for side in (replay.before, replay.after))
        scaled = (after - before) * HOURS_A_MONTH * months / Fraction(str(replay.window_hours))
        cost[currency] = decimal_text(round(scaled))
        steps.append(
            f"({decimal_text(after)} − {decimal_text(before)}) {currency} ÷ {replay.window_hours:g} h × {HOURS_A_MONTH} h "
            f"a month × {found['months']} months"
        )
    computation = f"dearer running while leaving, from drill {replay.drill}: {'; '.join(steps)}"
    return found | {"cost": cost, "source": "derived", "computation": computation}


def _dependence(spend: list[Spend]) -> list[dict[str, Any]]:
    """Return each channel's share of what the route cost, by currency, exact to the hundredth of a percent (cut)."""
    totals: dict[str, int] = {}
    for one in spend:
        totals[one.currency] = totals.get(one.currency, 0) + one.pico
    return [
        {
            "channel": one.channel,
            "currency": one.currency,
            "spend": decimal_text(one.pico),
            "share_percent": 10_000 * one.pico // totals[one.currency] / 100 if totals[one.currency] else None,
        }
        for one in sorted(spend, key=lambda one: (one.currency, -one.pico, one.channel))
    ]


def _warnings(
    world: World, route: str, first: str, said: list[Said], latest: Trial | None, overdue: bool
) -> Iterable[str]:
    if not any(one["permitted"] for one in _configured(world, route, first)):
        more = f", and {len(said)} outside it that people have named" if said else ""
        yield f"no alternative is configured that may take its calls{more}"
    if latest is None:
        yield f"no drill has looked at it yet: `upeti drill cut {first} --by NAME`"
    elif overdue:
        yield f"its last drill is overdue: `upeti drill cut {first} --by NAME`"
    if not any(one.months for one in said):
        yield f"nobody has said how many months leaving takes: `upeti exit-plan set {route} --alternative NAME --months …`"


def overdue_before(now_ns: int, days: int) -> int:
    return now_ns - days * _DAY_NS
