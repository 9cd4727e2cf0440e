"""What remains when a channel is gone: for each call, the candidate that would take it, or why there is none.

Rules: a candidate is asked in the order of its route, as the gateway asks. It takes a call when it speaks the API, may
serve, fits every data policy of the caller, is not latched, had not failed for this call already, and has a price
wherever one is needed. What is not known of a channel does not meet a policy. Of several reasons the one that stands
nearest to a solution is told, with its cure. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from upeti.money.budget_terms import BudgetTerms
from upeti.money.price import Price, tiers_at
from upeti.rights.data_policy import DataPolicy, objection

PROVISIONED: Final = "provisioned"  # a service tier paid by the hour: another channel has none of its hours
_OTHER_WIRE: Final = "other"
_MESSAGES: Final = "messages"


class Gap(StrEnum):
    """Why no candidate takes a call, from the farthest to the nearest to a solution."""

    NO_CANDIDATE = "no_candidate"
    NO_API = "no_api"
    NO_RIGHT = "no_right"
    NO_POLICY = "no_policy"
    LATCHED = "latched"
    FAILED = "failed"
    NO_PRICE = "no_price"
    NO_BUDGET = "no_budget"


# Gap → what it means, and what helps; {route}, {channel}, {model}, {detail} are filled in.
GAPS: Final[Mapping[Gap, tuple[str, str]]] = {
    Gap.NO_CANDIDATE: (
        "the route has no candidate on another channel",
        "add a [[route.candidate]] on another channel to the route `{route}`",
    ),
    Gap.NO_API: (
        "no other candidate speaks the API that was called",
        "add a candidate whose channel speaks `{detail}` to the route `{route}`",
    ),
    Gap.NO_RIGHT: (
        "the other candidate may not serve",
        "`upeti rights explain {channel} serve` says what would change it",
    ),
    Gap.NO_POLICY: ("a data policy does not let the call go there", "{detail}"),
    Gap.LATCHED: (
        "the other candidate is latched now",
        "`upeti channels list` says why, `upeti channels open {channel}` opens it",
    ),
    Gap.FAILED: (
        "the other candidates had failed for this very call",
        "add one more candidate to the route `{route}`",
    ),
    Gap.NO_PRICE: (
        "the other candidate has no price where one is needed",
        "add a row for `{model}` on `{channel}` in a file of [money] price_files",
    ),
    Gap.NO_BUDGET: ("the other candidate's price does not fit the budget", "{detail}"),
}
_NEARNESS: Final = {gap: place for place, gap in enumerate(Gap)}


class Candidate(msgspec.Struct, frozen=True):
    channel: str
    model: str  # "": the name the client sent
    order: int
    weight: int
    prices: Mapping[str, tuple[Price, ...]]  # as gateway.snapshot.CandidateView has them


class Channel(msgspec.Struct, frozen=True):
    name: str
    wires: frozenset[str]
    tier: str = ""
    region: str = ""
    retention_days: int | None = None
    serves: bool = True
    latch: str = ""  # why it is latched now; "": it is not
    partial: bool = False  # own models that leave calls to others: nobody can count on them for one
    models_latched: frozenset[str] = frozenset()


class World(msgspec.Struct, frozen=True):
    """What is configured and permitted now."""

    channels: Mapping[str, Channel]
    routes: Mapping[str, tuple[Candidate, ...]]
    policies: tuple[DataPolicy, ...] = ()
    budgets: tuple[BudgetTerms, ...] = ()  # keys' own limits too
    refuse_unpriced: bool = True


class Asked(NamedTuple):
    """What of a call decides where it may go. ``failed`` are channels that had failed for it."""

    tenant: str
    project: str
    key: str
    feature: str
    route: str
    channel: str  # that answered it
    model: str  # as it was sent there
    wire: str
    tier: str  # that was billed
    failed: frozenset[str] = frozenset()


class Option(msgspec.Struct, frozen=True):
    """A candidate that takes a call."""

    channel: str
    model: str
    weight: int
    prices: tuple[Price, ...]
    tier: str  # that it would be billed at

    def price_at(self, at_ns: int) -> Price | None:
        """Return the dated price: at the call's tier, else at the standard one."""
        at_tiers = tiers_at(self.prices, at_ns)
        return at_tiers.get(self.tier) or at_tiers.get("")


class Lack(msgspec.Struct, frozen=True):
    """Why nobody takes a call."""

    gap: Gap
    channel: str = ""  # of the candidate that came nearest
    model: str = ""
    detail: str = ""

    def cure(self, route: str) -> str:
        if not route:
            return "such calls name no model, and go to [gateway] default_channel alone: have it name another channel"
        return GAPS[self.gap][1].format(route=route, channel=self.channel, model=self.model, detail=self.detail)


class Remaining:
    """The candidates of all routes without one channel."""

    def __init__(self, world: World, cut: str) -> None:
        self.world = world
        self.cut = cut
        self._found: dict[Asked, tuple[Option, ...] | Lack] = {}

    def options(self, asked: Asked) -> tuple[Option, ...] | Lack:
        """Return the candidates of the lowest order that take such a call, or why there is none."""
        found = self._found.get(asked)
        if found is None:
            found = self._found[asked] = self._find(asked)
        return found

    def _find(self, asked: Asked) -> tuple[Option, ...] | Lack:
        lack = Lack(Gap.NO_CANDIDATE)
        usable: list[Option] = []
        order: int | None = None
        name = self._asked_name(asked)
        for candidate in sorted(self.world.routes.get(asked.route, ()), key=lambda one: one.order):
            channel = self.world.channels.get(candidate.channel)
            if candidate.channel == self.cut or (channel is not None and channel.partial):
                continue
            if order is not None and candidate.order > order:
                break
            option = self._try(asked, candidate, candidate.model or name)
            if isinstance(option, Option):
                usable.append(option)
                order = candidate.order
            elif _NEARNESS[option.gap] > _NEARNESS[lack.gap]:
                lack = option
        return tuple(usable) or lack

    def _asked_name(self, asked: Asked) -> str:
        """Return the model that the client named; behind the route ``*`` it is the one that was sent."""
        return asked.route if asked.route not in ("*", "") else asked.model

    def _try(self, asked: Asked, candidate: Candidate, model: str) -> Option | Lack:
        channel = self.world.channels.get(candidate.channel)
        if channel is None:
            return Lack(Gap.NO_CANDIDATE)

        def lacks(gap: Gap, detail: str = "") -> Lack:
            return Lack(gap, candidate.channel, model, detail)

        if not self._speaks(channel, asked):
            return lacks(Gap.NO_API, asked.wire)
        if not channel.serves:
            return lacks(Gap.NO_RIGHT)
        concerned = [
            policy
            for policy in self.world.policies
            if policy.concerns(asked.tenant, asked.project, asked.key, asked.feature)
        ]
        against = objection(concerned, channel.name, channel.region, channel.retention_days)
        if against is not None:
            policy, why = against
            return lacks(Gap.NO_POLICY, f"the data policy `{policy.name}` says no to `{channel.name}`: {why}")
        if channel.latch or model in channel.models_latched:
            return lacks(Gap.LATCHED, channel.latch)
        if channel.name in asked.failed:
            return lacks(Gap.FAILED)
        prices = tuple(candidate.prices.get(model) or candidate.prices.get("*") or ())
        if not prices and (self.world.refuse_unpriced or self.limits(asked)):
            return lacks(Gap.NO_PRICE)
        own = self.world.channels.get(asked.channel)
        usual = own.tier if own is not None else ""
        tier = channel.tier if asked.tier in (usual, PROVISIONED) else asked.tier
        return Option(channel.name, model, candidate.weight, prices, tier)

    def limits(self, asked: Asked) -> list[BudgetTerms]:
        """Return the hard budgets of money that hold for a call."""
        return [
            terms
            for terms in self.world.budgets
            if not terms.soft
            and not terms.is_rate
            and terms.tenant in ("", asked.tenant)
            and terms.project in ("", asked.project)
            and terms.key in ("", asked.key)
            and terms.feature in ("", asked.feature)
        ]

    def _speaks(self, channel: Channel, asked: Asked) -> bool:
        if asked.wire != _OTHER_WIRE:
            return asked.wire in channel.wires
        own = self.world.channels.get(asked.channel)
        return own is None or (_MESSAGES in own.wires) == (_MESSAGES in channel.wires)


def drawn(options: tuple[Option, ...], call_id: str) -> Option:
    """Return one of the candidates of an order by weight, the same one for the same call each time."""
    total = sum(option.weight for option in options)
    if len(options) == 1 or not total:
        return options[0]
    at = int.from_bytes(sha256(call_id.encode()).digest()[:8], "big") * total >> 64
    for option in options:
        at -= option.weight
        if at < 0:
            return option
    raise AssertionError("weights are what they add up to")
