"""A snapshot made ready to serve: channels with their pools and breakers, ways with their lanes.

``LiveView`` is built once per snapshot and swapped in whole; what did not change (a channel's pool, its breaker) is taken
over, so that a new price does not close a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from upeti import __version__
from upeti.core.errors import BadRequest, ConfigError, Forbidden, NotFound, Overloaded
from upeti.gateway import secrets
from upeti.gateway.auth import check_route, check_served, identify
from upeti.gateway.faults import MILLION
from upeti.gateway.health import Breaker
from upeti.gateway.latch import Latch, Latches
from upeti.gateway.paths import Target
from upeti.gateway.purses import PurseFinder
from upeti.gateway.refusals import not_asked, not_permitted, tenant_held
from upeti.gateway.signs import Signs
from upeti.gateway.snapshot import Caller, CandidateView, ChannelView, RouteView, ShareView, Snapshot
from upeti.gateway.upstream import Pool
from upeti.money.price import Price, tiers_at
from upeti.providers.catalog import PROVIDERS
from upeti.providers.signals import shipped
from upeti.rights.data_policy import DataPolicy, objection
from upeti.rights.terms import SERVE
from upeti.wire.tiers import AUTO, AUTO_REACH, PROVISIONED, STANDARD
from upeti.wire.wires import OTHER

if TYPE_CHECKING:
    from upeti.gateway.rehearsal import Rehearsal

# Clients choose the names behind a route `*`, so there is no end to them.
_REMEMBERED_MAX = 4096
_REMEMBERED_BYTES_MAX = 1024
_MODEL_LETTERS_MAX = 256  # as of a route's name; it goes into records and heads


class LiveChannel:
    """A channel of this worker: where it is, how it is addressed, how it fares."""

    def __init__(
        self, view: ChannelView, pool: Pool, breaker: Breaker, secret: str, token: Callable[[], str] | None
    ) -> None:
        self.view = view
        self.name = view.name
        self.pool = pool
        self.breaker = breaker
        self.serves_until_ns = view.purposes.get(SERVE, 0)
        self.provider = PROVIDERS[view.kind]
        self._secret = secret
        self.token = token
        # Of the secret of 256 bits no more than what tells one from the next.
        self.key_id = sha256(f"upeti:{view.host}:{secret}".encode()).hexdigest()[:12] if secret else ""
        # Only where a provider blocks accounts for abuse is it looked for answers that a filter ended.
        self.blocks_for_abuse = shipped().blocks_for_abuse(view.kind)
        self.signals_host = (view.signals_host or view.host).lower()
        self.worked: Lane | None = None  # what was last answered well: what a probe asks with
        self.rehearsal: Rehearsal | None = None  # a drill under way on it

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nobody but the provider may see."""
        return (self._secret, self.token() if self.token is not None else "")

    def takes(self, target: Target) -> bool:
        """Whether the provider speaks the API that is asked for, and may be asked, as far as the snapshot said."""
        return bool(self.serves_until_ns) and self.speaks(target)

    def speaks(self, target: Target) -> bool:
        """Whether the provider speaks the API that is asked for."""
        wires = self.provider.wires
        if target.wire is OTHER:
            return not self.provider.defers and ("messages" in wires) == target.anthropic
        return target.wire.name in wires

    @property
    def head_changes(self) -> bool:
        return self.token is not None

    def head_for(self, target: Target, model: str) -> bytes:
        """Return a request's first lines: method, address, credentials; the caller adds the rest."""
        view = self.view
        default_port = 443 if view.tls else 80
        host = f"[{view.host}]" if ":" in view.host else view.host
        lines = [
            f"{target.method} {self._address(target, model)} HTTP/1.1",
            f"host: {host}" if view.port == default_port else f"host: {host}:{view.port}",
            f"user-agent: upeti/{__version__}",
            "accept-encoding: identity",
        ]
        auth = self.provider.auth
        if self.token is not None and self.provider.bearer is not None:
            auth = self.provider.bearer
        secret = self.token() if self.token is not None else self._secret
        if secret and auth.header:
            lines.append(f"{auth.header}: {auth.prefix}{secret}")
        if view.organization:
            lines.append(f"openai-organization: {view.organization}")
        if view.project:
            lines.append(f"openai-project: {view.project}")
        return ("\r\n".join(lines) + "\r\n").encode()

    def _address(self, target: Target, model: str) -> str:
        view = self.view
        query = target.query
        if view.kind == "azure":
            if not view.api_version:
                path = f"{view.path}/openai/v1{target.suffix}"
            else:
                query = f"{query}&api-version={view.api_version}" if query else f"api-version={view.api_version}"
                if target.suffix.startswith(("/chat/", "/completions", "/embeddings", "/images/", "/audio/")):
                    path = f"{view.path}/openai/deployments/{quote(model, safe='')}{target.suffix}"
                else:
                    path = f"{view.path}/openai{target.suffix}"
        elif view.kind == "anthropic" and not view.path.endswith("/v1"):
            path = f"{view.path}/v1{target.suffix}"
        else:
            path = view.path + target.suffix
        return f"{path}?{query}" if query else path


class Tariff:
    """What a call that asks for one service tier can cost on a lane."""

    __slots__ = ("price", "reach")

    def __init__(self, price: Price, reach: tuple[Price, ...]) -> None:
        self.price = price  # unless the answer reports another tier
        self.reach = reach  # of every tier that it can be served at


class Lane:
    """A candidate made ready for one API and one model: all that does not change from call to call."""

    __slots__ = (
        "_tariffs",
        "cap",
        "cap_field",
        "channel",
        "context_tokens",
        "currency",
        "head",
        "model",
        "model_upstream",
        "named",
        "order",
        "prices",
        "prices_by_tier",
        "provisioned",
        "served_by",
        "share",
        "target",
        "timeout_s",
        "until_ns",
        "weight",
    )

    def __init__(
        self,
        view: CandidateView,
        channel: LiveChannel,
        target: Target,
        asked: str,
        cap_default: int,
        timeout_s: float,
    ) -> None:
        """``asked`` is the model's name as the client gave it, ``timeout_s`` what the route gives an attempt."""
        wire = target.wire
        own_ms = channel.view.answer_within_ms
        self.timeout_s = min(timeout_s, own_ms / 1000) if own_ms else timeout_s
        self.share: ShareView | None = None  # of an own model that takes a part of the calls
        self.target = target
        self.channel = channel
        self.named = view.model not in ("", "*")  # by the operator, not by the client
        self.order = view.order
        self.weight = view.weight
        self.model = asked if view.model in ("", "*") else view.model
        self.model_upstream = channel.view.deployments.get(self.model, self.model)
        self.context_tokens = view.context_tokens
        self.cap = 0
        self.cap_field = ""
        if wire.cap_fields:
            self.cap = wire.cap_default or view.output_tokens_max or cap_default
            self.cap_field = channel.provider.cap_field(wire.name, channel.view.host)
        self.prices = view.prices.get(self.model) or view.prices.get("*") or ()
        self.served_by = _printable(f"{channel.name}/{self.model}")
        # A channel with tokens that change by the hour has no fixed head.
        self.head = b"" if channel.head_changes else channel.head_for(target, self.model_upstream)
        self.provisioned = channel.view.tier == PROVISIONED
        self.prices_by_tier: dict[str, Price] = {}
        self._tariffs: dict[str | None, Tariff] = {}
        self.until_ns = 0
        self.look_up_prices(0)

    def tariff(self, asked: str | None) -> Tariff | None:
        """Return the prices of a call that asks for the tier ``asked``; None when one that it can reach has none."""
        tariff = self._tariffs.get(asked)
        return tariff if tariff is not None else self._find_tariff(asked)

    def usual_tier(self, asked: str | None) -> str:
        """Return the tier that a call is served at when its answer does not say."""
        usual = self.channel.view.tier
        return usual if self.provisioned or asked is None or asked == AUTO else asked

    def _find_tariff(self, asked: str | None) -> Tariff | None:
        usual = self.usual_tier(asked)
        reach = {usual, STANDARD}  # what is served faster or cheaper may be served as usual after all
        if asked == AUTO:
            reach.update(tier for tier in AUTO_REACH if tier in self.prices_by_tier)
        elif asked is not None:
            reach.add(asked)
        prices = [self.prices_by_tier.get(tier) for tier in sorted(reach)]
        known = tuple(price for price in prices if price is not None)
        if len(known) < len(prices) or len({price.currency for price in known}) > 1:
            return None
        tariff = self._tariffs[asked] = Tariff(self.prices_by_tier[usual], known)
        return tariff

    def look_up_prices(self, now_ns: int) -> None:
        """Take the prices in force at ``now_ns`` and remember until when they are."""
        self.prices_by_tier = tiers_at(self.prices, now_ns)
        self._tariffs.clear()
        usual = self.prices_by_tier.get(self.channel.view.tier)
        self.currency = usual.currency if usual is not None else "USD"
        later = [price.effective_ns for price in self.prices if price.effective_ns > now_ns]
        # The right to serve ends by date as a price does; so an attempt looks at one moment only.
        self.until_ns = min([*later, self.channel.serves_until_ns])


class Way:
    """Where a caller's call of one API and one model may go: the route and its lanes in the order of the file."""

    __slots__ = ("deadline_s", "lanes", "latch", "route", "shared", "stream_idle_s", "throttle_wait_s")

    def __init__(self, route: RouteView, lanes: tuple[Lane, ...], latch: Latch | None = None) -> None:
        self.route = route
        self.lanes = lanes
        self.latch = latch  # one that keeps a candidate out
        self.shared = any(lane.share is not None for lane in lanes)
        self.deadline_s = route.deadline_ms / 1000
        self.stream_idle_s = route.stream_idle_ms / 1000
        self.throttle_wait_s = route.throttle_wait_ms / 1000


class LiveView:
    """All that one snapshot says, ready to serve."""

    def __init__(self, snapshot: Snapshot, channels: dict[str, LiveChannel], latches: Latches, signs: Signs) -> None:
        """``latches`` and ``signs`` are this worker's, and outlive the view."""
        self.snapshot = snapshot
        self.keys = snapshot.keys
        self.channels = channels
        self.routes = snapshot.routes
        self.refuse_unpriced = snapshot.unpriced == "refuse"
        self.rehearsed = False  # whether a drill is under way on any channel
        self.purses = PurseFinder(snapshot.budgets, snapshot.frozen)
        self.latches = latches
        self.signs = signs
        # Features that a data policy asks for: calls of others all go the same ways.
        self.policy_features = frozenset(policy.feature for policy in snapshot.policies if policy.feature)
        self._ways: dict[tuple[str, Target, str, str], Way] = {}
        self._callers: dict[bytes, Caller] = {}

    def caller(self, headers: Mapping[bytes, bytes], now_ns: int) -> Caller:
        """Return who calls, by the key in ``headers``. Raises ``Unauthenticated``.

        A bearer key that was found once is found without being hashed again, as long as this view lives.
        """
        bearer = headers.get(b"authorization", b"")
        caller = self._callers.get(bearer)
        if caller is None or caller.expires_ns:
            caller = identify(headers, self.keys, now_ns)
            if bearer.startswith((b"Bearer ", b"bearer ")):  # with any other scheme the key stood elsewhere
                if len(self._callers) >= _REMEMBERED_MAX:
                    self._callers.clear()
                self._callers[bearer] = caller
        return caller

    def way(self, caller: Caller, target: Target, model: str, feature: str = "") -> Way:
        """Return where a call may go: every candidate that is permitted and not latched.

        ``feature`` is one of ``policy_features``, or "". Raises ``NotFound`` (no route, no channel), ``Forbidden`` (not with
        this key, a tenant that is suspended, no candidate that is permitted), ``BadRequest`` (not this API).
        """
        way = self._ways.get((caller.key, target, model, feature))
        if way is None:
            way = self._find_way(caller, target, model, feature)
            if len(target.suffix) + len(target.query) > _REMEMBERED_BYTES_MAX:
                return way
            if len(self._ways) >= _REMEMBERED_MAX:
                self._ways.clear()
            self._ways[caller.key, target, model, feature] = way
        return way

    def forget_ways(self) -> None:
        """A latch or a hold has changed: ways are found again."""
        self._ways.clear()

    def _find_way(self, caller: Caller, target: Target, model: str, feature: str) -> Way:
        check_served(caller, self.snapshot)  # here, where a call of a tenant that is served comes once
        hold = self.signs.held.get(caller.tenant)
        if hold is not None:
            raise tenant_held(hold.number, hold.until_ns)
        if len(model) > _MODEL_LETTERS_MAX:
            raise BadRequest(
                "invalid_model", f"The model's name is longer than {_MODEL_LETTERS_MAX} letters.", param="model"
            )
        route = (self.routes.get(model) or self.routes.get("*")) if model else None
        if route is None and model and target.wire is not OTHER:
            known = ", ".join(sorted(name for name in self.routes if name != "*")[:20])
            raise NotFound(
                "model_not_found",
                f"There is no route for the model {model[:100]!r}. Known here: {known or 'none'}. "
                "Add a [[route]] with that name, or one named *.",
                param="model",
            )
        if route is None:
            route = self._default_route(target)
        check_route(caller, route.name)
        cap_default, timeout_s = self.snapshot.output_tokens_default, route.attempt_timeout_ms / 1000
        lanes = tuple(
            Lane(candidate, self.channels[candidate.channel], target, model, cap_default, timeout_s)
            for candidate in route.candidates
            if self.channels[candidate.channel].takes(target)
        )
        if not lanes:
            channels = [self.channels[candidate.channel] for candidate in route.candidates]
            self._check_rights(f"of the route {route.name!r}", [one for one in channels if one.speaks(target)])
            raise BadRequest(
                "no_candidate",
                f"No candidate of the route {route.name!r} takes this API: /v1/messages goes to channels of kind "
                "anthropic, everything else to the others.",
            )
        lanes = self._permitted(self._with_a_share(self._without_quarantined(lanes)), caller, feature)
        latches = [self.latches.covering(lane.channel.name, lane.channel.key_id, lane.model) for lane in lanes]
        usable = tuple(lane for lane, latch in zip(lanes, latches, strict=True) if latch is None)
        return Way(route, usable, next((latch for latch in latches if latch is not None), None))

    def _without_quarantined(self, lanes: tuple[Lane, ...]) -> tuple[Lane, ...]:
        """Return the lanes without own models that a right was taken from. Raises ``Overloaded`` when there is no other."""
        not_served = self.snapshot.not_served
        if not not_served:
            return lanes
        left = tuple(lane for lane in lanes if lane.model not in not_served.get(lane.channel.name, ()))
        if not left:
            first = lanes[0]
            act = not_served[first.channel.name][first.model]
            raise Overloaded(
                "model_quarantined",
                f"The model {first.served_by} is out of service: a right that it rests on is gone, or it was retired (act "
                f"{act}), and the route has no other candidate. `upeti models show` says why; add a candidate to the route.",
            )
        return left

    def _with_a_share(self, lanes: tuple[Lane, ...]) -> tuple[Lane, ...]:
        """Return the lanes without own models that are asked nothing now. Raises ``Overloaded`` when there is no other."""
        left = []
        for lane in lanes:
            if lane.channel.provider.defers:
                share = self.snapshot.shares.get(lane.channel.name, {}).get(lane.model)
                if share is None or not share.share_ppm:
                    continue
                if share.share_ppm < MILLION:
                    lane.share = share
            left.append(lane)
        if not left:
            raise not_asked(lanes[0].served_by, None)
        return tuple(left)

    def _permitted(self, lanes: tuple[Lane, ...], caller: Caller, feature: str) -> tuple[Lane, ...]:
        """Return the lanes that all data policies of this caller let through. Raises ``Forbidden`` when there is none."""
        policies: list[DataPolicy] = [
            policy
            for policy in self.snapshot.policies
            if policy.concerns(caller.tenant, caller.project, caller.key, feature)
        ]
        if not policies:
            return lanes
        permitted = []
        against: tuple[str, str, str] | None = None
        for lane in lanes:
            for view in self._seen_by(lane):
                found = objection(policies, view.name, view.region, view.retention_days)
                if found is not None:
                    against = against or (found[0].name, view.name, found[1])
                    break
            else:
                permitted.append(lane)
        if against is not None and not permitted:
            raise not_permitted(*against)
        return tuple(permitted)

    def _seen_by(self, lane: Lane) -> list[ChannelView]:
        """Return the channels that may get to see what a lane is asked: an own model's teacher, too, by its audits."""
        views = [lane.channel.view]
        share = self.snapshot.shares.get(lane.channel.name, {}).get(lane.model)
        if share is not None and share.teacher in self.channels:
            views.append(self.channels[share.teacher].view)
        return views

    def _check_rights(self, where: str, channels: list[LiveChannel]) -> None:
        """Raises ``Forbidden`` when what would fit may not serve."""
        if channels:
            raise no_right(where, channels[0].name)

    def _default_route(self, target: Target) -> RouteView:
        """The route of a path that names no model: the default channel, or the first that fits."""
        for name in (self.snapshot.default_channel, *self.channels):
            channel = self.channels.get(name)
            if channel is not None and channel.takes(target):
                return RouteView("", (CandidateView(channel.name, "", 0, 1, {}),))
        self._check_rights("here", [channel for channel in self.channels.values() if channel.speaks(target)])
        raise NotFound("no_channel", "No channel takes this path: add a [[channel]] of a fitting kind.")


def no_right(where: str, channel: str) -> Forbidden:
    """Return the refusal of a call that no channel ``where`` may serve."""
    return Forbidden(
        "channel_not_permitted",
        f"No channel {where} may serve: a contract has ended, or it was denied. `upeti rights explain {channel} serve` "
        "says why.",
    )


def _printable(text: str) -> str:
    """As it may stand in a header: a client chooses the model's name behind a route `*`."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)


def build(
    snapshot: Snapshot,
    old: LiveView | None,
    loop: asyncio.AbstractEventLoop,
    data_dir: Path,
    tokens: Callable[[ChannelView], Callable[[], str]],
) -> LiveView:
    """Make ``snapshot`` ready. Raises ``ConfigError`` when a secret or an authority cannot be found or a kind of channel
    is not known; the old view then stays.
    """
    channels: dict[str, LiveChannel] = {}
    for name, view in snapshot.channels.items():
        if view.kind not in PROVIDERS:
            raise ConfigError(f"channel {name}: the kind {view.kind} is not known to this version of Upeti")
        secret = secrets.resolve(view.api_key, data_dir) if view.api_key is not None and not view.entra else ""
        before = old.channels.get(name) if old is not None else None
        if before is not None and before.view == view:
            # A token's source lives as long as its channel: it has a thread, and its first token takes a second.
            channels[name] = LiveChannel(view, before.pool, before.breaker, secret, before.token)
            channels[name].worked = before.worked
        else:
            token = tokens(view) if view.entra else None
            try:
                pool = Pool(view, loop)
            except OSError as error:
                raise ConfigError(f"channel {name}: ca_file {view.ca_file} cannot be used: {error}") from error
            channels[name] = LiveChannel(
                view, pool, Breaker(view.breaker_failures, view.breaker_pause_ms / 1000), secret, token
            )
    if old is not None:
        kept = {channel.pool for channel in channels.values()}
        for channel in old.channels.values():
            if channel.pool not in kept:
                channel.pool.close()
    latches, signs = (old.latches, old.signs) if old is not None else (Latches(), Signs())
    latches.confirm(snapshot.latches)
    return LiveView(snapshot, channels, latches, signs)
