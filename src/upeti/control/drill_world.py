"""From a snapshot to what a drill looks at: channels, candidates, policies, budgets, latches, as they are now."""

from __future__ import annotations

from collections.abc import Iterable

from upeti.gateway.latch import Latch, Scope
from upeti.gateway.snapshot import Snapshot
from upeti.money.budget_terms import BudgetTerms
from upeti.outlook.remaining import Asked, Candidate, Channel, Gap, Lack, Remaining, World
from upeti.providers.catalog import PROVIDERS
from upeti.rights.terms import SERVE


def world_of(snapshot: Snapshot, budgets: Iterable[BudgetTerms], now_ns: int) -> World:
    """Return what is configured and permitted at ``now_ns``. ``budgets`` are all, keys' own limits too."""
    channels = {
        name: Channel(
            name=name,
            wires=PROVIDERS[view.kind].wires,
            partial=PROVIDERS[view.kind].defers,
            tier=view.tier,
            region=view.region,
            retention_days=view.retention_days,
            serves=now_ns < view.purposes.get(SERVE, 0),
            latch=_latch(name, snapshot.latches),
            models_latched=frozenset(
                latch.subject.detail
                for latch in snapshot.latches
                if latch.subject.channel == name and latch.subject.scope is Scope.MODEL
            ),
        )
        for name, view in snapshot.channels.items()
    }
    routes = {
        name: tuple(
            Candidate(one.channel, one.model, one.order, one.weight, one.prices)
            for one in route.candidates
            if not getattr(one, "quarantined", "")
        )
        for name, route in snapshot.routes.items()
    }
    refuse = snapshot.unpriced == "refuse"
    return World(channels, routes, snapshot.policies, tuple(one for one in budgets if one.limit), refuse)


def _latch(channel: str, latches: Iterable[Latch]) -> str:
    for latch in latches:
        if latch.subject.channel == channel and latch.subject.scope is not Scope.MODEL:
            return latch.why
    return ""


def routes_through(world: World, channel: str) -> list[str]:
    """Return the routes that have the channel among their candidates, by name."""
    return sorted(
        name for name, candidates in world.routes.items() if any(one.channel == channel for one in candidates)
    )


def first_and_alone(world: World, channel: str) -> frozenset[str]:
    """Return the routes that try the channel before all others, and no other beside it."""
    found = set()
    for name, candidates in world.routes.items():
        first = min((one.order for one in candidates), default=0)
        if {one.channel for one in candidates if one.order == first} == {channel}:
            found.add(name)
    return frozenset(found)


def without_alternative(world: World, channel: str) -> dict[str, Lack]:
    """Return the routes through a channel whose calls, whoever makes them, nobody else would take, and why."""
    remaining = Remaining(world, channel)
    found = {}
    for route in routes_through(world, channel):
        lacks = []
        for wire in sorted(world.channels[channel].wires):
            own = next(one for one in world.routes[route] if one.channel == channel)
            asked = Asked("", "", "", "", route, channel, own.model or route, wire, world.channels[channel].tier)
            options = remaining.options(asked)
            lacks.append(options if isinstance(options, Lack) else None)
        if all(lack is not None for lack in lacks):
            found[route] = next((lack for lack in lacks if lack is not None), Lack(Gap.NO_CANDIDATE))
    return found
