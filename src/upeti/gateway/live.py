"""A snapshot made ready to serve: channels with their pools and breakers, candidates with their prices laid out.

``LiveView`` is built once per snapshot and swapped in whole; what did not change (a channel's pool, its breaker) is taken
over, so that a new price does not close a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from upeti import __version__
from upeti.gateway import secrets
from upeti.gateway.health import Breaker
from upeti.gateway.paths import Target
from upeti.gateway.snapshot import CandidateView, ChannelView, RouteView, Snapshot
from upeti.gateway.upstream import Pool
from upeti.money.price import Price, dearest
from upeti.providers.catalog import PROVIDERS
from upeti.rights.permit import SERVE, permit
from upeti.wire.wires import OTHER, Wire

_HEADS_REMEMBERED_MAX = 1024


class Cells(NamedTuple):
    """A price, and its dearest cells for the bound."""

    price: Price
    input_pico: int
    output_pico: int


class LiveChannel:
    """A channel of this worker: where it is, how it is addressed, how it fares."""

    def __init__(
        self, view: ChannelView, pool: Pool, breaker: Breaker, secret: str, token: Callable[[], str] | None
    ) -> None:
        self.view = view
        self.name = view.name
        self.pool = pool
        self.breaker = breaker
        self.may_serve = permit(view.purposes, SERVE)
        self.provider = PROVIDERS[view.kind]
        self._secret = secret
        self._token = token
        self._heads: dict[tuple[str, str, str, str], bytes] = {}

    def takes(self, target: Target) -> bool:
        """Whether the provider speaks the API that is asked for, and may be asked."""
        wires = self.provider.wires
        if target.wire is OTHER:
            fits = ("messages" in wires) == target.anthropic
        else:
            fits = target.wire.name in wires
        return fits and self.may_serve

    def head(self, target: Target, model: str) -> bytes:
        """Return the request's first lines: method, address, credentials; the caller adds the rest."""
        if self._token is not None:  # a bearer token changes by the hour
            return self._head(target, model)
        key = (target.method, target.suffix, target.query, model)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _HEADS_REMEMBERED_MAX:
                self._heads.clear()
            head = self._heads[key] = self._head(target, model)
        return head

    def _head(self, target: Target, model: str) -> bytes:
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
        if self._token is not None and self.provider.bearer is not None:
            auth = self.provider.bearer
        secret = self._token() if self._token is not None else self._secret
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


class LiveCandidate:
    """A candidate of a route."""

    def __init__(self, view: CandidateView, channel: LiveChannel) -> None:
        self.view = view
        self.channel = channel
        self.order = view.order
        self.weight = view.weight
        self.context_tokens = view.context_tokens
        self.output_tokens_max = view.output_tokens_max
        self._prices = {
            model: tuple(Cells(price, *dearest(price)) for price in rows) for model, rows in view.prices.items()
        }

    def model_for(self, asked: str) -> str:
        """The provider's name of the model that a client calls ``asked``."""
        model = self.view.model
        return asked if not model or model == "*" else model

    def name_upstream(self, model: str) -> str:
        """The name as the provider is to be told it: Azure knows deployments."""
        return self.channel.view.deployments.get(model, model)

    def cells(self, model: str, now_ns: int) -> Cells | None:
        """The price in force, or None when the book has none."""
        for cells in reversed(self._prices.get(model) or self._prices.get("*") or ()):
            if cells.price.effective_ns <= now_ns:
                return cells
        return None

    def takes(self, target: Target) -> bool:
        return self.channel.takes(target)

    def cap_field(self, wire: Wire) -> str:
        """The name of the output cap to put into a body."""
        return self.channel.provider.cap_field(wire.name, self.channel.view.host)


class LiveRoute:
    def __init__(self, view: RouteView, candidates: tuple[LiveCandidate, ...]) -> None:
        self.view = view
        self.name = view.name
        self.candidates = candidates
        self.deadline_s = view.deadline_ms / 1000
        self.attempt_timeout_s = view.attempt_timeout_ms / 1000
        self.stream_idle_s = view.stream_idle_ms / 1000


class LiveView:
    """All that one snapshot says, ready to serve."""

    def __init__(self, snapshot: Snapshot, channels: dict[str, LiveChannel], routes: dict[str, LiveRoute]) -> None:
        self.snapshot = snapshot
        self.keys = snapshot.keys
        self.channels = channels
        self.routes = routes
        self.any_route = routes.get("*")
        self.refuse_unpriced = snapshot.unpriced == "refuse"
        self.output_tokens_default = snapshot.output_tokens_default

    def route(self, model: str) -> LiveRoute | None:
        return self.routes.get(model) or self.any_route

    def default_route(self, target: Target) -> LiveRoute | None:
        """A route for a path that names no model: one candidate, the default channel's (or the first that fits)."""
        names = [self.snapshot.default_channel, *self.channels]
        for name in names:
            channel = self.channels.get(name)
            if channel is not None and channel.takes(target):
                candidate = LiveCandidate(CandidateView(channel.name, "", 0, 1, {}), channel)
                return LiveRoute(RouteView("", (candidate.view,)), (candidate,))
        return None


def build(
    snapshot: Snapshot,
    old: LiveView | None,
    loop: asyncio.AbstractEventLoop,
    data_dir: Path,
    tokens: Callable[[ChannelView], Callable[[], str]],
) -> LiveView:
    """Make ``snapshot`` ready. Raises ``ConfigError`` when a secret cannot be found; the old view then stays."""
    channels: dict[str, LiveChannel] = {}
    for name, view in snapshot.channels.items():
        secret = secrets.resolve(view.api_key, data_dir) if view.api_key is not None and not view.entra else ""
        token = tokens(view) if view.entra else None
        before = old.channels.get(name) if old is not None else None
        if before is not None and before.view == view:
            channels[name] = LiveChannel(view, before.pool, before.breaker, secret, token)
        else:
            pool = Pool(view, loop)
            channels[name] = LiveChannel(
                view, pool, Breaker(view.breaker_failures, view.breaker_pause_ms / 1000), secret, token
            )
    routes = {
        name: LiveRoute(view, tuple(LiveCandidate(c, channels[c.channel]) for c in view.candidates))
        for name, view in snapshot.routes.items()
    }
    if old is not None:
        kept = {channel.pool for channel in channels.values()}
        for channel in old.channels.values():
            if channel.pool not in kept:
                channel.pool.close()
    return LiveView(snapshot, channels, routes)
